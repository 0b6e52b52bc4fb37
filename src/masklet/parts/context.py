"""Context: what a pixel is depends on what is around it, so give every position a view of the whole map."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


class ASPP(nn.Module):
    """The map seen through filters with holes of several sizes, and its average: what is near, further, everywhere.

    A 1x1 convolution, one 3x3 convolution per dilation in `rates`, and the average through a 1x1 convolution,
    `channels` each, side by side; then `project` to `channels` (Chen et al., 2017, DeepLab v3, fig. 5).
    `window` (height, width) averages around every position instead of over the whole map, as a net does that was
    trained on crops of this size. `conv` makes the dilated filters (`DepthwiseSeparable` in the paper's v3+).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        dropout: float = 0.5,
        project_kernel: int = 1,
        average_norm: Layer | str | None = "batch",
        window: tuple[int, int] | None = None,
        conv: Callable[..., nn.Module] = ConvNormAct,
    ) -> None:
        super().__init__()
        if not rates or min(rates) < 1:
            raise ValueError(f"rates is {tuple(rates)}; give at least one positive dilation, as (6, 12, 18)")
        spread = (conv(in_channels, channels, 3, dilation=rate) for rate in rates)
        self.levels = nn.ModuleList([ConvNormAct(in_channels, channels, 1), *spread])
        self.average = ConvNormAct(in_channels, channels, 1, norm=average_norm)
        self.project = ConvNormAct(channels * (len(rates) + 2), channels, project_kernel)
        self.dropout, self.window, self.out_channels = nn.Dropout(dropout), window, channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        mean = self.average(self._mean(x))
        everywhere = F.interpolate(mean, x.shape[-2:], mode="bilinear", align_corners=False)
        return self.dropout(self.project(torch.cat([*(level(x) for level in self.levels), everywhere], 1)))

    def _mean(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        if self.window is None:
            return x.mean((2, 3), keepdim=True)
        return F.avg_pool2d(x, (min(self.window[0], x.shape[2]), min(self.window[1], x.shape[3])), stride=1)
