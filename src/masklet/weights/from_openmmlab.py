"""Weights of OpenMMLab's mmsegmentation: FCN and PSPNet on ResNetV1c, DeepLab, UPerNet on Swin and ResNetV1c, U-Net."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from torch import Tensor

from masklet.models.deeplab import FINE
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


def _conv_bn(theirs: str, ours: str, fix: Callable[[Tensor], Tensor] = lambda t: t) -> tuple[Rule, ...]:
    return Rule(rf"{theirs}\.conv\.(.+)", rf"{ours}.conv.\1", fix), Rule(rf"{theirs}\.bn\.(.+)", rf"{ours}.norm.\1")


def _separable(theirs: str, ours: str) -> tuple[Rule, ...]:
    parts = ("depthwise", "pointwise")
    return tuple(rule for part in parts for rule in _conv_bn(rf"{theirs}\.{part}_conv", f"{ours}.{part}"))


def _average_last(weight: Tensor) -> Tensor:
    """They put the average in front of the pyramid's four levels."""
    return weight.roll(-(weight.shape[1] // 5), 1)


def _fine_first(weight: Tensor) -> Tensor:
    """They put the deep map in front of the fine one; filters that read both, and their norms."""
    if weight.ndim == 0:
        return weight  # the norm's counter
    return weight.roll(FINE, 1 if weight.ndim == 4 and weight.shape[1] > 1 else 0)


DEEPLABV3 = (
    *deep_stem(r"backbone\.stem"),
    Rule(r"backbone\.layer([1-4])\.(.+)", r"backbone.layer\1.\2"),
    *_conv_bn(r"decode_head\.image_pool\.1", "aspp.average"),
    *(rule for i in range(4) for rule in _conv_bn(rf"decode_head\.aspp_modules\.{i}", f"aspp.levels.{i}")),
    *_conv_bn(r"decode_head\.bottleneck", "aspp.project", _average_last),
    Rule(r"decode_head\.conv_seg\.(.+)", r"head.\1"),
    *AUX,
)
FUSE = r"decode_head\.sep_bottleneck"
DEEPLABV3PLUS = (
    *(rule for i in range(1, 4) for rule in _separable(rf"decode_head\.aspp_modules\.{i}", f"aspp.levels.{i}")),
    *_conv_bn(r"decode_head\.c1_bottleneck", "reduce"),
    Rule(rf"{FUSE}\.0\.depthwise_conv\.conv\.(.+)", r"head.fuse1.depthwise.conv.\1", _fine_first),
    Rule(rf"{FUSE}\.0\.depthwise_conv\.bn\.(.+)", r"head.fuse1.depthwise.norm.\1", _fine_first),
    Rule(rf"{FUSE}\.0\.pointwise_conv\.conv\.(.+)", r"head.fuse1.pointwise.conv.\1", _fine_first),
    *_separable(rf"{FUSE}\.0", "head.fuse1"),
    *_separable(rf"{FUSE}\.1", "head.fuse2"),
    Rule(r"decode_head\.conv_seg\.(.+)", r"head.classifier.\1"),
    *DEEPLABV3,
)


FCN = (
    *deep_stem(r"backbone\.stem"),
    Rule(r"backbone\.layer([1-4])\.(.+)", r"backbone.layer\1.\2"),
    *(
        Rule(rf"decode_head\.{theirs}\.{layer}\.(.+)", rf"head.{ours}.{number}.\1")
        for theirs, ours in ((r"convs\.0", "first"), (r"convs\.1", "second"), ("conv_cat", "join"))
        for number, layer in enumerate(("conv", "bn"))
    ),
    Rule(r"decode_head\.conv_seg\.(.+)", r"head.classifier.\1"),
    *AUX,
)


def merged(weight: Tensor) -> Tensor:
    """Merging of patches: channels before pixels (torch's unfold) becomes pixels before channels, down first."""
    kept = weight.shape[:-1]
    return weight.view(*kept, -1, 2, 2).movedim((-1, -2), (-3, -2)).reshape(*kept, -1)


def swin(theirs: str, ours: str) -> tuple[Rule, ...]:
    """mmsegmentation's and mmdetection's Swin at the prefix `theirs` (a regular expression) as ours at `ours`."""
    block, own = rf"{theirs}stages\.(\d)\.blocks\.(\d+)", rf"{ours}layers.\1.blocks.\2"
    return (
        Rule(rf"{theirs}patch_embed\.projection\.(.+)", rf"{ours}patch_embed.proj.\1"),
        Rule(rf"{theirs}patch_embed\.norm\.(.+)", rf"{ours}patch_embed.norm.\1"),
        Rule(rf"{block}\.attn\.w_msa\.relative_position_index", None),
        Rule(rf"{block}\.attn\.w_msa\.(.+)", rf"{own}.attn.\3"),
        Rule(rf"{block}\.(norm[12])\.(.+)", rf"{own}.\3.\4"),
        Rule(rf"{block}\.ffn\.layers\.0\.0\.(.+)", rf"{own}.mlp.fc1.\3"),
        Rule(rf"{block}\.ffn\.layers\.1\.(.+)", rf"{own}.mlp.fc2.\3"),
        Rule(rf"{theirs}stages\.(\d)\.downsample\.(.+)", rf"{ours}layers.\1.downsample.\2", merged),
        Rule(rf"{theirs}norm(\d)\.(.+)", rf"{ours}norm\1.\2"),
    )


def upernet(norm: str = "bn", classifier: str = "conv_seg") -> tuple[Rule, ...]:
    """UPerNet's heads; transformers has the same names but for the norms and the last layers."""

    def conv_norm(theirs: str, ours: str) -> tuple[Rule, ...]:
        return (
            Rule(rf"decode_head\.{theirs}\.conv\.(.+)", rf"{ours}.conv.\1"),
            Rule(rf"decode_head\.{theirs}\.{norm}\.(.+)", rf"{ours}.norm.\1"),
        )

    return (
        *(rule for i in range(9) for rule in conv_norm(rf"psp_modules\.{i}\.1", f"pyramid.levels.{i}")),
        *conv_norm("bottleneck", "bottleneck"),
        *(rule for i in range(3) for rule in conv_norm(rf"lateral_convs\.{i}", f"laterals.{i}")),
        *(rule for i in range(3) for rule in conv_norm(rf"fpn_convs\.{i}", f"smooth.{i}")),
        *conv_norm("fpn_bottleneck", "fuse"),
        Rule(rf"decode_head\.{classifier}\.(.+)", r"classifier.\1"),
        Rule(r"auxiliary_head\.convs\.0\.conv\.(.+)", r"aux_head.0.\1"),
        Rule(rf"auxiliary_head\.convs\.0\.{norm}\.(.+)", r"aux_head.1.\1"),
        Rule(rf"auxiliary_head\.{classifier}\.(.+)", r"aux_head.4.\1"),
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


def _fcn_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {**_classes_and_aux(tensors), "layout": "mmseg"}


def _deeplabv3plus_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {**_pspnet_options(tensors), "output_stride": 8, "separable": True}


SWINS = {(96, 6): "t", (96, 18): "s", (128, 18): "b", (192, 18): "l"}  # width, blocks of the third stage: name


def swin_options(tensors: Mapping[str, Tensor], table: str, third_stage: str) -> dict[str, object]:
    """Which Swin V1 this is, and its window: from the table of its first block and the blocks of its third stage."""
    offsets, heads = tensors[table].shape
    depth = len({match[1] for key in tensors if (match := re.match(third_stage, key))})
    return {"backbone": f"swin_{SWINS.get((heads * 32, depth), 't')}", "window": (math.isqrt(offsets) + 1) // 2}


def upernet_options(
    tensors: Mapping[str, Tensor], classifier: str = "conv_seg", conv: str = "decode_head.bottleneck.conv.weight"
) -> dict[str, object]:
    """Classes and widths of a UPerNet."""
    options: dict[str, object] = {
        "num_classes": len(tensors[f"decode_head.{classifier}.weight"]),
        "channels": len(tensors[conv]),
        "aux_weight": 0.0,
    }
    if (aux := tensors.get("auxiliary_head.convs.0.conv.weight")) is not None:
        options |= {"aux_weight": 0.4, "aux_channels": len(aux)}
    return options


def _upernet_swin_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    table = "backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table"
    return {**upernet_options(tensors), **swin_options(tensors, table, r"backbone\.stages\.2\.blocks\.(\d+)")}


def _upernet_resnet_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {**upernet_options(tensors), "backbone": resnet_depth(tensors, "backbone.")}


def _unet_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {**_classes_and_aux(tensors), "up": "interp_conv", "head_channels": 64, "dropout": 0.1}


UPERNET_MARKS = (r"decode_head\.fpn_bottleneck\.conv\.weight", r"decode_head\.conv_seg\.weight")

ORIGIN = Origin(
    "openmmlab",
    (
        Layout(
            ("pspnet",),
            (r"decode_head\.psp_modules\.0\.1\.conv\.weight", r"decode_head\.conv_seg\.weight", r"backbone\.stem\..+"),
            PSPNET,
            _pspnet_options,
            without=(r"decode_head\.fpn_bottleneck\..+",),
        ),
        Layout(
            ("deeplabv3plus",),
            (r"decode_head\.image_pool\.1\.conv\.weight", r"decode_head\.c1_bottleneck\.conv\.weight"),
            DEEPLABV3PLUS,
            _deeplabv3plus_options,
        ),
        Layout(
            ("upernet",),
            (*UPERNET_MARKS, r"backbone\.stages\.0\.blocks\.0\.attn\.w_msa\.relative_position_bias_table"),
            (*swin(r"backbone\.", "backbone."), *upernet()),
            _upernet_swin_options,
        ),
        Layout(
            ("upernet",),
            (*UPERNET_MARKS, r"backbone\.stem\.0\.weight"),
            (*deep_stem(r"backbone\.stem"), Rule(r"backbone\.layer([1-4])\.(.+)", r"backbone.layer\1.\2"), *upernet()),
            _upernet_resnet_options,
        ),
        Layout(
            ("deeplabv3",),
            (r"decode_head\.image_pool\.1\.conv\.weight", r"decode_head\.conv_seg\.weight"),
            DEEPLABV3,
            _pspnet_options,
            without=(r"decode_head\.c1_bottleneck\..+",),
        ),
        *(
            Layout(
                (f"fcn_resnet{depth}",),
                (
                    r"backbone\.stem\.0\.weight",
                    r"decode_head\.conv_cat\.conv\.weight",
                    r"decode_head\.convs\.1\.conv\.weight",
                    rf"backbone\.layer3\.{last}\.conv3\.weight",
                ),
                FCN,
                _fcn_options,
                without=(rf"backbone\.layer3\.{last + 1}\..+",),
            )
            for depth, last in ((50, 5), (101, 22))
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
