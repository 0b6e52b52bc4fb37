"""Weights of hszhao/semseg: PSPNet on the deep-stem ResNets it was trained with."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from masklet.weights.remap import Layout, Origin, Rule

DEPTHS = {3 + 4 + 6 + 3: 50, 3 + 4 + 23 + 3: 101, 3 + 8 + 36 + 3: 152}  # blocks: layers
STEM = ("conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "conv3", "bn3")  # what the numbers in the deep stem mean


def deep_stem(theirs: str) -> tuple[Rule, ...]:
    return tuple(Rule(rf"{theirs}\.{i}\.(.+)", rf"backbone.{name}.\1") for i, name in enumerate(STEM))


def resnet_depth(tensors: Mapping[str, Tensor], prefix: str = "") -> str:
    """The backbone's name, from the number of its blocks."""
    blocks = sum(key.startswith(f"{prefix}layer") and key.endswith(".conv3.weight") for key in tensors)
    return f"resnet{DEPTHS.get(blocks, 50)}"


RESNEXTS = {(32, 4): "32x4d", (32, 8): "32x8d", (64, 4): "64x4d"}  # groups, width of a group


def resnet_name(blocks: int, weight: Tensor) -> str:
    """The name of a ResNet or ResNeXt with so many blocks; `weight` of a 3x3 convolution of its first stage."""
    depth, (width, group) = DEPTHS.get(blocks, 50), weight.shape[:2]
    if width == group:
        return f"resnet{depth}"
    return f"resnext{depth}_{RESNEXTS.get((width // group, group), '32x4d')}"


def deformable(tensors: Mapping[str, Tensor], offsets: str, first: int) -> dict[str, object]:
    """The options of a ResNet with deformable convolutions; the biases of their `offsets` name stage and block.

    `first` makes the number of a stage in the file that of its map (layer1 gives c2).
    """
    found = [(match, value) for key, value in tensors.items() if (match := re.fullmatch(offsets, key))]
    if not found:
        return {}
    stages, blocks = ({int(match[group]) for match, _ in found} for group in (1, 2))
    choices: dict[str, object] = {
        "deformable": len(found[0][1]) // 9 - 1,  # 2 or 3 numbers for each of 9 taps
        "deformable_stages": tuple(sorted(stage + first for stage in stages)),
    }
    if 1 not in blocks and len(blocks) > 1:
        choices["deformable_interval"] = sorted(blocks)[1]
    return {"backbone_options": choices}


def _options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    aux = {} if "aux.4.weight" in tensors else {"aux_weight": 0.0}
    return {
        "num_classes": len(tensors["cls.4.weight"]),
        "backbone": resnet_depth(tensors),
        "layout": "semseg",
        **aux,
    }


ORIGIN = Origin(
    "semseg",
    (
        Layout(
            ("pspnet",),
            (r"layer0\.0\.weight", r"ppm\.features\.0\.1\.weight", r"cls\.4\.weight"),
            (
                *deep_stem("layer0"),
                Rule(r"layer([1-4])\.(.+)", r"backbone.layer\1.\2"),
                Rule(r"ppm\.features\.(\d+)\.1\.(.+)", r"pyramid.levels.\1.conv.\2"),
                Rule(r"ppm\.features\.(\d+)\.2\.(.+)", r"pyramid.levels.\1.norm.\2"),
                Rule(r"cls\.(.+)", r"head.\1"),
                Rule(r"aux\.(.+)", r"aux_head.\1"),
            ),
            _options,
        ),
    ),
)
