"""Context: what a pixel is depends on what is around it, so give every position a view of the whole map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masklet.parts.conv import ConvNormAct, Layer


class PyramidPooling(nn.Module):
    """The map joined with its own averages over 1x1, 2x2, 3x3 and 6x6 bins (Zhao et al., 2017).

    Each average goes through a 1x1 convolution to `channels` (default: in_channels / number of bins, so all together
    weigh as much as the map itself) and back to the map's size bilinearly.
    """

    def __init__(
        self,
        in_channels: int,
        bins: Sequence[int] = (1, 2, 3, 6),
        channels: int | None = None,
        align_corners: bool = True,
        norm: Layer | str | None = "batch",
    ) -> None:
        super().__init__()
        if not bins or min(bins) < 1:
            raise ValueError(
                f"bins is {tuple(bins)}; give at least one positive number of bins a side, as (1, 2, 3, 6)"
            )
        channels = channels or in_channels // len(bins)
        self.bins, self.align_corners = tuple(bins), align_corners
        self.out_channels = in_channels + channels * len(bins)
        self.levels = nn.ModuleList(ConvNormAct(in_channels, channels, 1, norm=norm) for _ in bins)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        maps = [x]
        for bins, level in zip(self.bins, self.levels, strict=True):
            pooled = level(F.adaptive_avg_pool2d(x, bins))  # b channels bins bins
            maps.append(F.interpolate(pooled, x.shape[-2:], mode="bilinear", align_corners=self.align_corners))
        return torch.cat(maps, 1)
