"""The lecture's tf.keras network: a ResNet that keeps its map large, a pyramid below it, all levels joined like FCN.

From Atienza, *Advanced Deep Learning with Keras* (2nd edition), chapter 12, trained there on photographs of drinks. It
pads as TensorFlow does, its batch norm has TensorFlow's constants, and pixels come in as 0..1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.models.base import pixel_losses, predict_semantic, upsample
from masklet.ops.resize import resize
from masklet.parts.conv import Layer, SameConv2d, SameConvTranspose2d
from masklet.parts.frames import Multiple
from masklet.parts.losses import cross_entropy
from masklet.parts.norm import UNIT, BatchNorm2d, Normalize
from masklet.structures import Classes, SemanticMap
from masklet.structures.errors import UserError

norm: Layer = partial(BatchNorm2d, eps=1e-3)  # Keras' epsilon


class PreActivated(nn.Sequential):
    """Batch norm and ReLU, then a convolution; the very first of the net has the convolution alone."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, activated: bool = True) -> None:
        before = OrderedDict(norm=norm(channels), act=nn.ReLU(inplace=False)) if activated else OrderedDict()
        super().__init__(OrderedDict(**before, conv=SameConv2d(channels, out, kernel, stride)))


class Bottleneck(nn.Module):
    """Three pre-activated convolutions and the way round them, a convolution where channels or size change."""

    def __init__(self, channels: int, width: int, out: int, stride: int, activated: bool, project: bool) -> None:
        super().__init__()
        self.a = PreActivated(channels, width, 1, stride, activated)
        self.b, self.c = PreActivated(width, width, 3), PreActivated(width, out, 1)
        self.shortcut = SameConv2d(channels, out, 1, stride) if project else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        return self.shortcut(x) + self.c(self.b(self.a(x)))


class ResNetV2(nn.Module):
    """Keras' ResNet for small pictures, version 2: the stem has no stride, so that the last map is at stride 4."""

    channels, stride = 256, 4

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = conv_norm_relu(3, 16)
        channels, width, units = 16, 16, []
        for stage in range(3):
            out = width * (4 if stage == 0 else 2)
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                activated = stage > 0 or i > 0  # the stem has just been activated
                units.append(Bottleneck(channels, width, out, stride, activated, project=i == 0))
                channels = out
            width = out
        self.blocks, self.norm = nn.Sequential(*units), norm(channels)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 256 h4 w4"]:
        return F.relu(self.norm(self.blocks(self.stem(x))))


class KerasPyramid(nn.Module):
    """Per-pixel classes from maps at strides 4, 8, 16, 32, ..., joined at stride 4 and enlarged by learned filters."""

    align_corners = False
    classes: Classes
    spec: dict[str, Any]
    criterion: Callable[..., Tensor]

    def __init__(
        self,
        backbone: ResNetV2,
        deeper: list[nn.Module],
        lateral: list[nn.Module],
        enlarge: nn.Module,
        classifier: nn.Module,
    ):
        super().__init__()
        self.criterion, self.normalize = cross_entropy, Normalize(*UNIT)
        self.frame = Multiple(backbone.stride * 2 ** len(lateral))
        self.backbone, self.deeper, self.lateral = backbone, nn.ModuleList(deeper), nn.ModuleList(lateral)
        self.enlarge, self.classifier = enlarge, classifier

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return self.frame.covers(height, width)

    def pyramid(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Maps at strides 4, 8, 16, ...: the backbone's, its average over 2x2, and what strided convolutions add."""
        main = self.backbone(self.frame.pad(self.normalize(images)))
        maps = [main, F.avg_pool2d(main, 2)]
        for deeper in self.deeper:
            maps.append(deeper(maps[-1]))
        return maps

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h2 w2"]:
        main, *coarser = self.pyramid(images)
        size = main.shape[2], main.shape[3]
        joined = [main, *(resize(conv(x), size) for conv, x in zip(self.lateral, coarser, strict=True))]
        return self.classifier(self.enlarge(torch.cat(joined, 1)))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return upsample(self, self.scores(images), (images.shape[2], images.shape[3]))

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        return pixel_losses(self, targets, self.scores(images))

    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]:
        return predict_semantic(self, images)


def conv_norm_relu(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, batch norm and ReLU: the chapter's `conv_layer`."""
    conv = SameConv2d(channels, out, 3, stride)
    return nn.Sequential(OrderedDict(conv=conv, norm=norm(out), act=nn.ReLU(inplace=True)))


def transposed_norm_relu(channels: int, out: int) -> nn.Sequential:
    """Twice the size by a learned 3x3 filter, batch norm and ReLU: the chapter's `tconv_layer`."""
    conv = SameConvTranspose2d(channels, out, 3, stride=2)
    return nn.Sequential(OrderedDict(conv=conv, norm=norm(out), act=nn.ReLU(inplace=True)))


def keras_pyramid(
    num_classes: int = 4,
    layers: int = 3,
    blocks: int = 6,
    pyramid_filters: int = 512,
    filters: int = 256,
    momentum: float = 0.01,
) -> KerasPyramid:
    """The chapter's network: `layers` maps below the backbone's (3: strides 8, 16, 32), ResNet56 (6 `blocks` a stage).

    `pyramid_filters` of each deeper map, `filters` of each level where they are joined, as in the chapter's code.
    `momentum` is the share of a batch in the running statistics: Keras' 0.01 needs some 500 steps until predictions are
    what training saw; take 0.1 for a shorter training.
    """
    if layers < 1 or blocks < 1:
        raise UserError(f"layers is {layers}, blocks {blocks}", hint="give at least one of each")
    backbone = ResNetV2(blocks)
    widths = [backbone.channels, *[pyramid_filters] * (layers - 1)]
    deeper: list[nn.Module] = [conv_norm_relu(a, pyramid_filters, stride=2) for a in widths[:-1]]
    lateral: list[nn.Module] = [conv_norm_relu(width, filters) for width in widths]
    enlarge = nn.Sequential(
        OrderedDict(
            up_x2=transposed_norm_relu(backbone.channels + layers * filters, filters),
            up_x4=transposed_norm_relu(filters, filters),
        )
    )
    net = KerasPyramid(backbone, deeper, lateral, enlarge, SameConvTranspose2d(filters, num_classes, 1))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = momentum
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(part.weight)  # he_normal
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return net
