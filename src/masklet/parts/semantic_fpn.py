"""Classes of pixels from a feature pyramid, without a decoder (Kirillov et al., Panoptic Feature Pyramids, 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masklet.parts.conv import ConvNormAct, init_kaiming


class SemanticFPNHead(nn.Module):
    """Every level brought to the size of the finest by convolutions and doublings, summed, then one 1x1 convolution.

    A level of twice the stride of the finest has one convolution and one doubling, and so on; the finest itself has one
    convolution. The scores are at the stride of the finest level (fig. 3).
    """

    def __init__(
        self, strides: Mapping[str, int], channels: int, num_classes: int, width: int = 128, norm: str | None = "group"
    ) -> None:
        super().__init__()
        finest = min(strides.values())
        self.names = tuple(strides)
        self.levels = nn.ModuleList()
        for stride in strides.values():
            count = max(1, int(math.log2(stride // finest)))
            self.levels.append(
                nn.ModuleList(ConvNormAct(width if i else channels, width, 3, norm=norm) for i in range(count))
            )
        self.predictor = nn.Conv2d(width, num_classes, 1)
        for part in (self.levels, self.predictor):
            init_kaiming(part)

    def forward(self, pyramid: Mapping[str, Tensor]) -> Float[Tensor, "b k h w"]:
        size, out = pyramid[self.names[0]].shape[-2:], []
        for name, convs in zip(self.names, self.levels, strict=True):
            x = pyramid[name]
            for conv in convs:  # type: ignore[attr-defined]
                x = conv(x)
                if x.shape[-2:] != size:
                    x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            out.append(x)
        return self.predictor(torch.stack(out).sum(0) if len(out) > 1 else out[0])
