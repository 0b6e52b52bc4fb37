"""Weights of detectron2: DeepLab v3+ on the deep-stem ResNets of its DeepLab project."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from masklet.weights.from_semseg import DEPTHS
from masklet.weights.remap import Layout, Origin, Rule


def resnet(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Their ResNet at the prefix `theirs` (a regular expression) as ours at `ours`: stages count from res2."""
    return (
        Rule(rf"{theirs}stem\.conv(\d)\.norm\.(.+)", rf"{ours}bn\1.\2"),
        Rule(rf"{theirs}stem\.conv(\d)\.weight", rf"{ours}conv\1.weight"),
        *(
            rule
            for i in range(1, 5)
            for rule in (
                Rule(rf"{theirs}res{i + 1}\.(\d+)\.shortcut\.norm\.(.+)", rf"{ours}layer{i}.\1.downsample.1.\2"),
                Rule(rf"{theirs}res{i + 1}\.(\d+)\.shortcut\.weight", rf"{ours}layer{i}.\1.downsample.0.weight"),
                Rule(rf"{theirs}res{i + 1}\.(\d+)\.conv(\d)\.norm\.(.+)", rf"{ours}layer{i}.\1.bn\2.\3"),
                Rule(rf"{theirs}res{i + 1}\.(\d+)\.conv(\d)\.weight", rf"{ours}layer{i}.\1.conv\2.weight"),
            )
        ),
    )


def resnet_depth(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """The backbone's name, from the number of its blocks."""
    blocks = sum(key.startswith(f"{prefix}res") and key.endswith(".conv3.weight") for key in tensors)
    return f"resnet{DEPTHS.get(blocks, 50)}"


def _conv_norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """One of their convolutions, whose norm is its child."""
    return Rule(rf"{theirs}\.norm\.(.+)", rf"{ours}.norm.\1"), Rule(rf"{theirs}\.(weight|bias)", rf"{ours}.conv.\1")


DECODER = r"sem_seg_head\.decoder"
DEEPLAB = (
    *resnet(r"backbone\.", "backbone."),
    *(rule for i in range(4) for rule in _conv_norm(rf"{DECODER}\.res5\.project_conv\.convs\.{i}", f"aspp.levels.{i}")),
    *_conv_norm(rf"{DECODER}\.res5\.project_conv\.convs\.4\.1", "aspp.average"),
    *_conv_norm(rf"{DECODER}\.res5\.project_conv\.project", "aspp.project"),
    *_conv_norm(rf"{DECODER}\.res2\.project_conv", "reduce"),
    *_conv_norm(rf"{DECODER}\.res2\.fuse_conv\.0", "head.fuse1"),
    *_conv_norm(rf"{DECODER}\.res2\.fuse_conv\.1", "head.fuse2"),
    Rule(r"sem_seg_head\.predictor\.(.+)", r"head.classifier.\1"),
    Rule(r"pixel_(mean|std)", None),
)


def _deeplab_options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """As every config of the DeepLab project has them."""
    return {
        "num_classes": len(tensors["sem_seg_head.predictor.weight"]),
        "backbone": resnet_depth(tensors, "backbone."),
        "layout": "detectron2",
        "multi_grid": (1, 2, 4),
        "loss": "hard_pixels",
    }


ORIGIN = Origin(
    "detectron2",
    (
        Layout(
            ("deeplabv3plus",),
            (
                r"backbone\.stem\.conv3\.weight",
                r"sem_seg_head\.decoder\.res2\.fuse_conv\.1\.weight",
                r"sem_seg_head\.predictor\.weight",
            ),
            DEEPLAB,
            _deeplab_options,
        ),
    ),
)
