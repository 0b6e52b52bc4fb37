"""Deformable convolution: filters whose taps go where the input tells them to (Dai et al., 2017; Zhu et al., 2019)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class DeformableConv2d(nn.Conv2d):
    """A convolution that moves each of its taps by what a second convolution, `offset`, says at every position.

    Version 1 moves them; version 2 also weighs each between 0 and 1. Channels of `offset`: down and right of every tap
    in turn, then the weights (as in mmcv; detectron2 has them in the same order). It starts at 0, so that a new layer
    is a plain convolution, in version 2 of half the size. Values between cells are interpolated, outside the map 0.
    """

    def __init__(self, *args: Any, version: int = 2, **options: Any) -> None:
        super().__init__(*args, **options)
        if version not in (1, 2):
            raise ValueError(f"version is {version}; deformable convolutions have 1 and 2")
        taps = self.kernel_size[0] * self.kernel_size[1]
        place = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        self.version = version
        self.offset = nn.Conv2d(self.in_channels, (1 + version) * taps, self.kernel_size, **place)  # type: ignore[arg-type]
        self.start_plain()

    def start_plain(self) -> None:
        """No tap moves."""
        nn.init.zeros_(self.offset.weight)
        if self.offset.bias is not None:
            nn.init.zeros_(self.offset.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        said, taps = self.offset(x), self.kernel_size[0] * self.kernel_size[1]
        mask = said[:, 2 * taps :].sigmoid() if self.version == 2 else None
        return deform_conv2d(
            x,
            said[:, : 2 * taps].contiguous(),
            self.weight,
            self.bias,
            (self.stride[0], self.stride[1]),
            (int(self.padding[0]), int(self.padding[1])),
            (self.dilation[0], self.dilation[1]),
            mask,
        )


def start_plain(module: nn.Module) -> None:
    """Every deformable convolution of a module that has just been initialised starts without moving."""
    for part in module.modules():
        if isinstance(part, DeformableConv2d):
            part.start_plain()
