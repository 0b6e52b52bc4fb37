"""The three networks of the flood lecture, under the lecture's names, doing what its slides intend.

The printed code does not run as it stands: `self.relu` is never made, the VGG's `forward` returns inside its loop and
hands a list to code that wants `x1` ... `x5`, and the U-Net's crop takes the wrong one of two tensors, which nobody
notices because padded convolutions leave nothing to crop. Names and sizes are kept, so weights trained with a repaired
copy of that code load as they are. New here: images of any size, and ImageNet normalisation inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.models.base import predict_semantic, upsample
from masklet.parts.conv import init_kaiming
from masklet.parts.frames import Multiple
from masklet.parts.losses import cross_entropy
from masklet.parts.norm import IMAGENET, Normalize
from masklet.structures import Classes, SemanticMap


class SeedNet(nn.Module):
    """Parts under the lecture's names, and the function that wires them from pixels to scores."""

    align_corners = False
    classes: Classes
    spec: dict[str, Any]
    criterion: Callable[..., Tensor]

    def __init__(self, parts: Mapping[str, nn.Module], wire: Callable[[Any, Tensor], Tensor], stride: int):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.criterion = cross_entropy
        self.normalize, self.frame, self.wire = Normalize(*IMAGENET), Multiple(stride), wire

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return self.frame.covers(height, width)

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k hs ws"]:
        return self.wire(self, self.frame.pad(self.normalize(images)))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return upsample(self, self.scores(images), (images.shape[2], images.shape[3]))

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        return {"main": self.criterion(self(images), targets, ignore=self.classes.ignore)}

    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]:
        return predict_semantic(self, images)


def seed_fcn(num_classes: int = 2) -> SeedNet:
    """The lecture's FCN: VGG-13's convolutions, five learned upsamplings, the skips added (13,334,050 parameters)."""
    widths = (3, 64, 128, 256, 512, 512)
    blocks = {f"block{i + 1}": _block(widths[i], widths[i + 1]) for i in range(5)}
    return SeedNet(blocks | _ladder_parts(num_classes), _fcn, stride=32)


def _fcn(net: Any, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
    x1 = net.block1(x)  # stride 2
    x2 = net.block2(x1)
    x3 = net.block3(x2)
    x4 = net.block4(x3)
    x5 = net.block5(x4)  # stride 32
    return _ladder(net, x1, x2, x3, x4, x5)


def seed_fcns(num_classes: int = 2) -> SeedNet:
    """The same way back up on VGG16's convolutions (18,643,746 parameters with two classes)."""
    return SeedNet({"pretrained_net": VGG16Features()} | _ladder_parts(num_classes), _fcns, stride=32)


def _fcns(net: Any, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
    return _ladder(net, *net.pretrained_net(x))


class VGG16Features(nn.Module):
    """The convolutions of the ImageNet classifier, numbered as torchvision numbers them; gives the five pooled maps."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, convs in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(convs):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        init_kaiming(self)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        pooled = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pooled.append(x)
        return pooled


def _block(channels: int, width: int) -> nn.Module:
    first, second = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
    return init_kaiming(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2)))


def _ladder_parts(num_classes: int) -> dict[str, nn.Module]:
    widths = (512, 512, 256, 128, 64, 32)
    parts: dict[str, nn.Module] = {}
    for i in range(5):
        parts[f"deconv{i + 1}"] = nn.ConvTranspose2d(widths[i], widths[i + 1], 3, stride=2, padding=1, output_padding=1)
        parts[f"bn{i + 1}"] = nn.BatchNorm2d(widths[i + 1])
    return {**parts, "classifier": nn.Conv2d(32, num_classes, 1)}


def _ladder(net: Any, x1: Tensor, x2: Tensor, x3: Tensor, x4: Tensor, x5: Tensor) -> Float[Tensor, "b k h w"]:
    score = net.bn1(F.relu(net.deconv1(x5))) + x4
    score = net.bn2(F.relu(net.deconv2(score))) + x3
    score = net.bn3(F.relu(net.deconv3(score))) + x2
    score = net.bn4(F.relu(net.deconv4(score))) + x1
    score = net.bn5(F.relu(net.deconv5(score)))
    return net.classifier(score)


def seed_unet(num_classes: int = 2) -> SeedNet:
    """The lecture's U-Net: padded convolutions without normalisation, skips concatenated (31,031,810 parameters)."""
    parts: dict[str, nn.Module] = {}
    for i, (a, b) in enumerate(((3, 64), (64, 128), (128, 256), (256, 512), (512, 1024)), 1):
        parts[f"down_conv{i}"] = _dual_conv(a, b)
    for i, a in enumerate((1024, 512, 256, 128), 1):
        parts[f"trans{i}"] = nn.ConvTranspose2d(a, a // 2, 2, stride=2)
        parts[f"up_conv{i}"] = _dual_conv(a, a // 2)
    parts["out"] = nn.Conv2d(64, num_classes, 1)
    return SeedNet(parts, _unet, stride=16)


def _dual_conv(channels: int, width: int) -> nn.Module:
    first, second = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
    return init_kaiming(nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True)))


def _unet(net: Any, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
    x1 = net.down_conv1(x)
    x2 = net.down_conv2(F.max_pool2d(x1, 2))
    x3 = net.down_conv3(F.max_pool2d(x2, 2))
    x4 = net.down_conv4(F.max_pool2d(x3, 2))
    x = net.down_conv5(F.max_pool2d(x4, 2))
    x = net.up_conv1(torch.cat([net.trans1(x), x4], 1))  # the enlarged map first, then the skip
    x = net.up_conv2(torch.cat([net.trans2(x), x3], 1))
    x = net.up_conv3(torch.cat([net.trans3(x), x2], 1))
    x = net.up_conv4(torch.cat([net.trans4(x), x1], 1))
    return net.out(x)
