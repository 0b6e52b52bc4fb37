"""The way back up: enlarge a deep feature map step by step and join it with the encoder's map of that size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masklet.parts.conv import ConvNormAct, init_kaiming


def center_crop(x: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
    """The middle of `x`; an axis that is already no larger than wanted stays as it is."""
    top, left = max(x.shape[-2] - size[0], 0) // 2, max(x.shape[-1] - size[1], 0) // 2
    return x[..., top : top + size[0], left : left + size[1]]


class Bilinear(nn.Module):
    """Enlarge by interpolation, nothing to learn: to the skip's size, or by exactly `factor` where that is given."""

    def __init__(self, channels: int, factor: int | None = None):
        super().__init__()
        self.channels, self.factor = channels, factor

    def forward(self, x: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
        if self.factor is not None:
            size = (x.shape[-2] * self.factor, x.shape[-1] * self.factor)
        return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class Transposed(nn.Module):
    """Enlarge by two with a learned 2x2 kernel and halve the channels, as the first U-Net does."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels // 2
        self.conv = nn.ConvTranspose2d(channels, self.channels, 2, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c2 h2 w2"]:
        return center_crop(self.conv(x), size)


class InterpConv(nn.Module):
    """Enlarge by two with interpolation, then a 1x1 convolution that halves the channels (mmsegmentation's U-Net)."""

    def __init__(self, channels: int, norm: str | None = "batch"):
        super().__init__()
        self.channels = channels // 2
        self.up, self.mix = Bilinear(channels, factor=2), ConvNormAct(channels, self.channels, 1, norm=norm)

    def forward(self, x: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c2 h2 w2"]:
        return center_crop(self.mix(self.up(x, size)), size)


UPSAMPLES: Mapping[str, Callable[[int, str | None, bool], Any]] = MappingProxyType(
    {  # (channels, norm, whether convolutions lose their border, so that skips are larger than what they join)
        "transposed": lambda channels, norm, valid: Transposed(channels),
        "interp_conv": lambda channels, norm, valid: InterpConv(channels, norm),
        "bilinear": lambda channels, norm, valid: Bilinear(channels, factor=2 if valid else None),
    }
)


def two_convs(in_channels: int, channels: int, norm: str | None, padding: int | None = None) -> nn.Sequential:
    """Two 3x3 convolutions, each with normalisation and ReLU; `padding=0` loses one pixel per side at each."""
    first = ConvNormAct(in_channels, channels, 3, padding=padding, norm=norm)
    return nn.Sequential(first, ConvNormAct(channels, channels, 3, padding=padding, norm=norm))


class UpBlock(nn.Module):
    """One step up: enlarge, put the encoder's map of that size (cropped to fit) in front, convolve."""

    def __init__(self, up: nn.Module, convs: nn.Module):
        super().__init__()
        self.up, self.convs = up, convs

    def forward(self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b s h1 w1"]) -> Float[Tensor, "b d h2 w2"]:
        x = self.up(x, (skip.shape[2], skip.shape[3]))
        return self.convs(torch.cat([center_crop(skip, (x.shape[2], x.shape[3])), x], dim=1))


class SkipDecoder(nn.Module):
    """From the deepest level up to the finest one asked for; gives the map after every step, deepest first."""

    def __init__(self, levels: Sequence[str], steps: Sequence[nn.Module], context: nn.Module | None = None):
        super().__init__()
        self.levels = tuple(levels)  # deepest first; one step joins each level after the first
        self.context, self.steps = context or nn.Identity(), nn.ModuleList(steps)

    def forward(self, features: dict[str, Tensor]) -> list[Tensor]:
        maps = [self.context(features[self.levels[0]])]
        for level, step in zip(self.levels[1:], self.steps, strict=True):
            maps.append(step(maps[-1], features[level]))
        return maps


def skip_decoder(
    encoder_channels: Mapping[str, int],
    levels: Sequence[str],
    widths: Sequence[int],
    up: str = "bilinear",
    norm: str | None = "batch",
    valid: bool = False,
    context: nn.Module | None = None,
) -> SkipDecoder:
    """A decoder over `levels` (deepest first) of an encoder; `widths` are the channels after each step.

    `valid` is for convolutions that lose their border. `context` treats the deepest map and gives `widths[0]` channels.
    """
    deep, steps = encoder_channels[levels[0]] if context is None else widths[0], []
    for level, width in zip(levels[1:], widths, strict=True):
        enlarge = UPSAMPLES[up](deep, norm, valid)
        convs = two_convs(enlarge.channels + encoder_channels[level], width, norm, 0 if valid else None)
        steps.append(init_kaiming(UpBlock(enlarge, convs)))
        deep = width
    return SkipDecoder(levels, steps, context)
