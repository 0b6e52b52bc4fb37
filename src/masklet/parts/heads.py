"""Heads that turn a feature map into class scores."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from masklet.parts.conv import init_kaiming
from masklet.parts.norm import BatchNorm2d


class FCNHead(nn.Sequential):
    """3x3 convolution, batch norm, ReLU, dropout, 1x1 convolution: numbered 0 to 4 as in torchvision and semseg."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, num_classes, 1),
        )
        init_kaiming(self)


class JoinedFCNHead(nn.Module):
    """Two 3x3 convolutions, joined with the map that they began from by a third: mmsegmentation's head of FCN."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.first, self.second = _conv_norm_relu(in_channels, channels), _conv_norm_relu(channels, channels)
        self.join = _conv_norm_relu(in_channels + channels, channels)
        self.dropout, self.classifier = nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, 1)
        init_kaiming(self)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        found = self.second(self.first(x))
        return self.classifier(self.dropout(self.join(torch.cat([x, found], 1))))


def _conv_norm_relu(in_channels: int, channels: int) -> nn.Sequential:
    layers: list[Any] = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), BatchNorm2d(channels)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True))
