"""Weights of the tf.keras pyramid (chapter12-segmentation of Advanced Deep Learning with Keras), from its .h5 files.

Keras numbers layers without a name in the order in which they are made; the backbone is made first.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from torch import Tensor

from masklet.weights.remap import Layout, Origin, Rule

NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def _kernel(weight: Tensor) -> Tensor:
    """Height and width last; then what a convolution gives comes first, of a transposed one what it takes."""
    return weight.permute(3, 2, 0, 1)


def _conv(theirs: str, ours: str) -> tuple[Rule, ...]:
    return Rule(rf"{theirs}/kernel(?::0)?", f"{ours}.weight", _kernel), Rule(rf"{theirs}/bias(?::0)?", f"{ours}.bias")


def _norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return tuple(Rule(rf"{theirs}/{name}(?::0)?", f"{ours}.{mine}") for name, mine in NORM.items())


def _numbered(name: str, i: int) -> str:
    """The i-th layer of a kind, wherever in the file it stands."""
    return rf"(?:.+/)?{name}" + (f"_{i}" if i else "")


def _backbone(blocks: int) -> tuple[Rule, ...]:
    convs, norms, rules = count(), count(), list[Rule]()

    def conv(ours: str) -> None:
        rules.extend(_conv(_numbered("conv2d", next(convs)), f"backbone.{ours}"))

    def norm(ours: str) -> None:
        rules.extend(_norm(_numbered("batch_normalization", next(norms)), f"backbone.{ours}"))

    conv("stem.conv")
    norm("stem.norm")
    for i in range(3 * blocks):
        for part in ("a", "b", "c"):
            if i or part != "a":
                norm(f"blocks.{i}.{part}.norm")
            conv(f"blocks.{i}.{part}.conv")
        if i % blocks == 0:
            conv(f"blocks.{i}.shortcut")
    norm("norm")
    return tuple(rules)


def _named(layers: int) -> tuple[Rule, ...]:
    rules = list[Rule]()
    for i in range(layers - 1):
        rules += _conv(rf"(?:.+/)?conv_+layer{i + 2}", f"deeper.{i}.conv")
        rules += _norm(rf"(?:.+/)?bn_+layer{i + 2}", f"deeper.{i}.norm")
    for i in range(layers):
        rules += _conv(rf"(?:.+/)?conv_fcn_{8 * 2**i}", f"lateral.{i}.conv")
        rules += _norm(rf"(?:.+/)?bn_fcn_{8 * 2**i}", f"lateral.{i}.norm")
    for name in ("up_x2", "up_x4"):
        rules += _conv(rf"(?:.+/)?tconv_{name}", f"enlarge.{name}.conv")
        rules += _norm(rf"(?:.+/)?bn_{name}", f"enlarge.{name}.norm")
    return (*rules, *_conv(r"(?:.+/)?pre_activation", "classifier"))


BLOCKS = 6  # ResNet56, the only depth that was trained
MARKS = (r"(?:.+/)?conv_fcn_8/kernel(?::0)?", r"(?:.+/)?tconv_up_x4/kernel(?::0)?")


def _layout(layers: int) -> Layout:
    """The chapter trained with three layers; its code can build others."""

    def options(tensors: Mapping[str, Tensor]) -> dict[str, object]:
        bias = next(value for key, value in tensors.items() if "pre_activation/bias" in key)
        return {"num_classes": len(bias), "layers": layers, "blocks": BLOCKS}

    last, next_one = (rf"(?:.+/)?conv_fcn_{4 * 2**n}/kernel(?::0)?" for n in (layers, layers + 1))
    rules = (*_backbone(BLOCKS), *_named(layers))
    return Layout(("keras_pyramid",), (*MARKS, last), rules, options, without=(next_one,))


ORIGIN = Origin("keras", tuple(_layout(layers) for layers in (3, 4, 2)))
