"""AlexNet, in the two layouts that weights come in: torchvision's single tower, and Caffe's with its two halves."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from masklet.parts.backbones.sequence import FeatureSequence, Level
from masklet.parts.conv import init_kaiming
from masklet.parts.norm import CAFFE_BGR


def alexnet() -> FeatureSequence:
    """The single tower of "One weird trick" (Krizhevsky, 2014), numbered as in torchvision."""
    layers = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2),
        nn.ReLU(inplace=True),  # 1: stride 4
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),  # 4: stride 8
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),  # 11: stride 16
        nn.MaxPool2d(3, 2),  # 12: stride 32
    )
    init_kaiming(layers)
    levels = {
        "c2": Level("1", 64, 4), "c3": Level("4", 192, 8), "c4": Level("11", 256, 16), "c5": Level("12", 256, 32),
    }  # fmt: skip
    return FeatureSequence(layers, levels, least=63)


def caffenet(groups: int = 2) -> FeatureSequence:
    """The first AlexNet as Caffe trained it: 3 of 5 convolutions see half the channels, responses compete (LRN).

    Layers have Caffe's names; pools round up. `groups=1` undoes the halves, which were there for two small GPUs.
    """
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 96, 11, 4),
        relu1=nn.ReLU(inplace=True),
        pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
        norm1=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        conv2=nn.Conv2d(96, 256, 5, padding=2, groups=groups),
        relu2=nn.ReLU(inplace=True),
        pool2=nn.MaxPool2d(3, 2, ceil_mode=True),
        norm2=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        conv3=nn.Conv2d(256, 384, 3, padding=1),
        relu3=nn.ReLU(inplace=True),
        conv4=nn.Conv2d(384, 384, 3, padding=1, groups=groups),
        relu4=nn.ReLU(inplace=True),
        conv5=nn.Conv2d(384, 256, 3, padding=1, groups=groups),
        relu5=nn.ReLU(inplace=True),
        pool5=nn.MaxPool2d(3, 2, ceil_mode=True),
    )
    levels = {
        "c2": Level("relu1", 96, 4), "c3": Level("relu2", 256, 8),
        "c4": Level("relu5", 256, 16), "c5": Level("pool5", 256, 32),
    }  # fmt: skip
    features = nn.Sequential(layers)
    init_kaiming(features)
    return FeatureSequence(features, levels, pixels=CAFFE_BGR, least=39)
