"""Weights of OpenMMLab's mmsegmentation: PSPNet (ResNetV1c, stride 8) and the U-Net with 64 channels and 5 levels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from masklet.weights.from_semseg import deep_stem, resnet_depth
from masklet.weights.remap import Layout, Origin, Rule

AUX = (
    Rule(r"auxiliary_head\.convs\.0\.conv\.(.+)", r"aux_head.0.\1"),
    Rule(r"auxiliary_head\.convs\.0\.bn\.(.+)", r"aux_head.1.\1"),
    Rule(r"auxiliary_head\.conv_seg\.(.+)", r"aux_head.4.\1"),
)
PSPNET = (
    *deep_stem(r"backbone\.stem"),
    Rule(r"backbone\.layer([1-4])\.(.+)", r"backbone.layer\1.\2"),
    Rule(r"decode_head\.psp_modules\.(\d+)\.1\.conv\.(.+)", r"pyramid.levels.\1.conv.\2"),
    Rule(r"decode_head\.psp_modules\.(\d+)\.1\.bn\.(.+)", r"pyramid.levels.\1.norm.\2"),
    Rule(r"decode_head\.bottleneck\.conv\.(.+)", r"head.0.\1"),
    Rule(r"decode_head\.bottleneck\.bn\.(.+)", r"head.1.\1"),
    Rule(r"decode_head\.conv_seg\.(.+)", r"head.4.\1"),
    *AUX,
)
LEVELS = 5


def _two_convs(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(rf"{theirs}\.convs\.(\d)\.conv\.(.+)", rf"{ours}.\1.conv.\2"),
        Rule(rf"{theirs}\.convs\.(\d)\.bn\.(.+)", rf"{ours}.\1.norm.\2"),
    )


def _step_up(finest_first: int) -> tuple[Rule, ...]:
    """They count the decoder's steps from the finest, we in the order in which they run."""
    theirs, ours = rf"backbone\.decoder\.{finest_first}", rf"decoder.steps.{LEVELS - 2 - finest_first}"
    return (
        *_two_convs(rf"{theirs}\.conv_block", f"{ours}.convs"),
        Rule(rf"{theirs}\.upsample\.interp_upsample\.1\.conv\.(.+)", rf"{ours}.up.mix.conv.\1"),
        Rule(rf"{theirs}\.upsample\.interp_upsample\.1\.bn\.(.+)", rf"{ours}.up.mix.norm.\1"),
    )


UNET = (
    *_two_convs(r"backbone\.encoder\.0\.0", "encoder.levels.0"),
    *(rule for i in range(1, LEVELS) for rule in _two_convs(rf"backbone\.encoder\.{i}\.1", f"encoder.levels.{i}")),
    *(rule for i in range(LEVELS - 1) for rule in _step_up(i)),
    Rule(r"decode_head\.convs\.0\.conv\.(.+)", r"head.0.\1"),
    Rule(r"decode_head\.convs\.0\.bn\.(.+)", r"head.1.\1"),
    Rule(r"decode_head\.conv_seg\.(.+)", r"head.4.\1"),
    *AUX,
)


def _classes_and_aux(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    trained = "auxiliary_head.conv_seg.weight" in tensors
    return {"num_classes": len(tensors["decode_head.conv_seg.weight"]), "aux_weight": 0.4 if trained else 0.0}


def _pspnet_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {**_classes_and_aux(tensors), "backbone": resnet_depth(tensors, "backbone."), "layout": "mmseg"}


def _unet_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {**_classes_and_aux(tensors), "up": "interp_conv", "head_channels": 64, "dropout": 0.1}


ORIGIN = Origin(
    "openmmlab",
    (
        Layout(
            ("pspnet",),
            (r"decode_head\.psp_modules\.0\.1\.conv\.weight", r"decode_head\.conv_seg\.weight", r"backbone\.stem\..+"),
            PSPNET,
            _pspnet_options,
        ),
        Layout(
            ("unet",),
            (
                r"backbone\.encoder\.0\.0\.convs\.0\.conv\.weight",
                r"backbone\.decoder\.0\.upsample\.interp_upsample\.1\.conv\.weight",
                r"decode_head\.convs\.0\.conv\.weight",
                r"decode_head\.conv_seg\.weight",
            ),
            UNET,
            _unet_options,
        ),
    ),
)
