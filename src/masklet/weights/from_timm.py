"""Weights of timm as backbones: MobileNets, EfficientNet-Lite0, VGG and the ResNets with a deep stem ("resnet50c").

timm's plain ResNets and ResNeXts have torchvision's names, so `from_torchvision` knows them. Names do not tell how a
network pads: these rules are for `mobilenetv2_100`, `mobilenetv3_*_100` and `tf_efficientnet_lite0`. timm's
`tf_mobilenetv3_*` and `efficientnet_lite0` have the same names and other padding; do not load them here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from masklet.parts.backbones.efficientnet_lite import STAGES
from masklet.parts.backbones.mobilenet import LARGE, SMALL, V2, Block
from masklet.weights.remap import Layout, Origin, Rule

HEAD = Rule(r"(conv_head|bn2|classifier|fc|head|pre_logits)\..+", None)


def _places(counts: Sequence[int]) -> Iterator[str]:
    """timm counts blocks anew in each stage, we count on."""
    return (rf"blocks\.{stage}\.{i}" for stage, count in enumerate(counts) for i in range(count))


def _rules(theirs: str, ours: str, names: dict[str, str]) -> Iterator[Rule]:
    return (Rule(rf"{theirs}\.{name}\.(.+)", rf"{ours}.{mine}.\1") for name, mine in names.items())


def _v2() -> Iterator[Rule]:
    ends = (("conv_stem", 0, 0), ("bn1", 0, 1), ("conv_head", 18, 0), ("bn2", 18, 1))
    yield from (Rule(rf"{name}\.(.+)", rf"features.{i}.{j}.\1") for name, i, j in ends)
    narrow = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
    wide = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"}
    for number, place in enumerate(_places([count for _, _, count, _ in V2]), 1):
        yield from _rules(place, f"features.{number}.conv", narrow if number == 1 else wide)


def _smaller_epsilon(variance: Tensor) -> Tensor:
    """timm adds 0.00001 to the variance where torchvision and we add 0.001: the sum stays what it was."""
    return variance - (1e-3 - 1e-5)


def _v3(rows: Sequence[Block], counts: Sequence[int]) -> Iterator[Rule]:
    names: list[tuple[str, str]] = [("conv_stem", "features.0.0"), ("bn1", "features.0.1")]
    for number, (place, row) in enumerate(zip(_places(counts), rows, strict=True), 1):
        convs = ("conv_dw", "conv_pw") if number == 1 else ("conv_pw", "conv_dw", "conv_pwl")
        squeeze = convs.index("conv_dw") + 1 if row.squeeze else len(convs)
        for i, conv in enumerate(convs):
            at = f"features.{number}.block.{i + (i >= squeeze)}"
            names += [(rf"{place}\.{conv}", f"{at}.0"), (rf"{place}\.bn{i + 1}", f"{at}.1")]
        if row.squeeze:
            at = f"features.{number}.block.{squeeze}"
            names += [(rf"{place}\.se\.conv_reduce", f"{at}.fc1"), (rf"{place}\.se\.conv_expand", f"{at}.fc2")]
    last = f"features.{len(rows) + 1}"
    names += [(rf"blocks\.{len(counts)}\.0\.conv", f"{last}.0"), (rf"blocks\.{len(counts)}\.0\.bn1", f"{last}.1")]
    for theirs, ours in names:
        yield Rule(rf"{theirs}\.running_var", f"{ours}.running_var", _smaller_epsilon)
        yield Rule(rf"{theirs}\.(.+)", rf"{ours}.\1")


def _lite0() -> Iterator[Rule]:
    yield from (Rule(rf"{name}\.(.+)", rf"stem.{mine}.\1") for name, mine in (("conv_stem", "conv"), ("bn1", "norm")))
    narrow = {"conv_dw": "depthwise.conv", "bn1": "depthwise.norm", "conv_pw": "project.conv", "bn2": "project.norm"}
    wide = {"conv_pw": "expand.conv", "bn1": "expand.norm", "conv_dw": "depthwise.conv", "bn2": "depthwise.norm"}
    wide |= {"conv_pwl": "project.conv", "bn3": "project.norm"}
    for number, place in enumerate(_places([stage.blocks for stage in STAGES])):
        yield from _rules(place, f"blocks.{number}", narrow if number == 0 else wide)


DEEP_STEM = ((r"conv1\.0", "conv1"), (r"conv1\.1", "bn1"), (r"conv1\.3", "conv2"), (r"conv1\.4", "bn2"))
DEEP_RESNET = (
    *(Rule(rf"{theirs}\.(.+)", rf"{ours}.\1") for theirs, ours in (*DEEP_STEM, (r"conv1\.6", "conv3"), ("bn1", "bn3"))),
    Rule(r"(layer.+)", r"\1"),
    HEAD,
)
SQUEEZE = r"blocks\.\d\.\d\.se\..+"

ORIGIN = Origin(
    "timm",
    (
        Layout(
            ("backbone",),
            (r"conv_stem\.weight", r"blocks\.2\.2\.conv_pwl\.weight", r"blocks\.6\.0\.conv_pwl\.weight"),
            (*_v2(), HEAD),
            without=(SQUEEZE,),
        ),
        Layout(
            ("backbone",),
            (r"conv_stem\.weight", r"blocks\.5\.3\.conv_pwl\.weight", r"blocks\.6\.0\.conv_pwl\.weight"),
            (*_lite0(), HEAD),
            without=(SQUEEZE, r"blocks\.2\.2\..+"),
        ),
        Layout(
            ("backbone",),
            (r"conv_stem\.weight", r"blocks\.6\.0\.conv\.weight"),
            (*_v3(LARGE, (1, 2, 3, 4, 2, 3)), HEAD),
        ),
        Layout(
            ("backbone",),
            (r"conv_stem\.weight", r"blocks\.5\.0\.conv\.weight"),
            (*_v3(SMALL, (1, 2, 3, 2, 3)), HEAD),
        ),
        Layout(("backbone",), (r"conv1\.6\.weight", r"layer1\.0\.conv1\.weight"), DEEP_RESNET),
        Layout(
            ("backbone",),
            (r"features\.0\.weight", r"pre_logits\.fc1\.weight"),
            (HEAD, Rule(r"(.+)", r"\1")),
        ),
    ),
)
