"""Heads that turn a feature map into class scores."""

from __future__ import annotations

from torch import nn

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
