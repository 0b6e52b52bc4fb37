"""VGG: nothing but 3x3 convolutions and pools (Simonyan and Zisserman, 2014). Numbered as in torchvision."""

from __future__ import annotations

from torch import nn

from masklet.parts.backbones.sequence import FeatureSequence, Level
from masklet.parts.conv import init_kaiming
from masklet.parts.norm import BatchNorm2d

WIDTHS = (64, 128, 256, 512, 512)


def vgg(convolutions: tuple[int, int, int, int, int], batch_norm: bool = False) -> FeatureSequence:
    """So many convolutions before each of the five pools; c1 to c5 are the pools' maps."""
    layers, levels, channels = nn.Sequential(), {}, 3
    for i, (count, width) in enumerate(zip(convolutions, WIDTHS, strict=True), 1):
        for _ in range(count):
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if batch_norm:
                layers.append(BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            channels = width
        levels[f"c{i}"] = Level(str(len(layers)), width, 2**i)
        layers.append(nn.MaxPool2d(2, 2))
    init_kaiming(layers)
    return FeatureSequence(layers, levels, least=32)


A, B, D, E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)  # the paper's table 1: 11, 13, 16, 19
