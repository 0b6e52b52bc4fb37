"""FCN on colour and depth: joined at the first convolution (early fusion) or at the scores (late fusion)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.models import unknown
from masklet.models.base import predict_semantic
from masklet.models.fcn import FCN, PIXELS, fcn8s, fcn16s, fcn32s
from masklet.parts.losses import cross_entropy
from masklet.parts.norm import Normalize, Pixels
from masklet.structures import Classes, SemanticMap

HHA = Pixels((132.431, 94.076, 118.477), scale=255.0)  # mean of the published NYUDv2 pictures, in their own order
LOG_DEPTH = 7.844  # mean of the logarithm of NYUDv2's depth in millimetres
NEAREST = 1.0  # millimetre; stands for 0, which was not measured
STRIDES: Mapping[int, Callable[..., FCN]] = MappingProxyType({32: fcn32s, 16: fcn16s, 8: fcn8s})


class RGBDFCN(nn.Module):
    """Per-pixel classes from colour and depth, joined by `fusion` (Long et al., 2015, sec. 5: NYUDv2).

    Images have RGB in their first three channels. `depth_as` says what follows: "metres" one channel, 0 where unknown;
    "hha" three channels in 0..1.
    """

    align_corners = False  # of no effect: the scores are as large as the image
    classes: Classes
    spec: dict[str, Any]
    criterion: Callable[..., Tensor]

    def __init__(self, fusion: nn.Module, depth_as: str) -> None:
        super().__init__()
        self.fusion, self.depth_as, self.criterion = fusion, depth_as, cross_entropy

    def scores(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        return self.fusion(images[:, :3], images[:, 3:])

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        return self.scores(images)

    def loss(self, images: Float[Tensor, "b c h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        return {"main": self.criterion(self.scores(images), targets, ignore=self.classes.ignore)}

    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]:
        """Like all models, of float tensors that hold the depth too: `masklet.data.rgbd.read_rgbd` makes them."""
        return predict_semantic(self, images)


class LateFusion(nn.Module):
    """Two FCNs, one for colours and one for depth, whose scores are added ("RGB-HHA")."""

    def __init__(self, colour: FCN, depth: FCN) -> None:
        super().__init__()
        self.colour, self.depth = colour, depth

    def forward(self, images: Float[Tensor, "b 3 h w"], depth: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return self.colour.scores(images) + self.depth.scores(depth)


class EarlyFusion(nn.Module):
    """One FCN whose first convolution also reads the logarithm of the depth as a fourth channel ("RGBD")."""

    def __init__(self, normalize: nn.Module, fcn: FCN) -> None:
        super().__init__()
        self.normalize, self.fcn = normalize, fcn

    def forward(self, images: Float[Tensor, "b 3 h w"], depth: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b k h w"]:
        far = (depth * 1000).clamp(min=NEAREST).log() - LOG_DEPTH
        return self.fcn.scores(torch.cat([self.normalize(images), far], 1))


def fcn_rgbd_late(num_classes: int = 40, backbone: str = "vgg16", stride: int = 32, pixels: str = "caffe") -> RGBDFCN:
    """Late fusion; depth comes as HHA (horizontal disparity, height, angle). 40 classes: NYUDv2.

    `stride` is that of the finest scores: 32, 16 or 8, as in FCN-32s, 16s and 8s. The enlarging filters are fixed, so
    adding before or after them is the same. Other options as in `fcn32s`.
    """
    make = _fcn(stride)
    colour, depth = make(backbone, num_classes, pixels), make(backbone, num_classes, pixels)
    depth.normalize = Normalize(*HHA)
    return RGBDFCN(LateFusion(colour, depth), "hha")


def fcn_rgbd_early(num_classes: int = 40, backbone: str = "vgg16", stride: int = 32, pixels: str = "caffe") -> RGBDFCN:
    """Early fusion; depth comes in metres. The other options as in `fcn_rgbd_late`.

    The first convolution's weights for the depth start as the mean of those for the three colours.
    """
    fcn = _fcn(stride)(backbone, num_classes, pixels)
    fcn.normalize = nn.Identity()
    first = next(module for module in fcn.backbone.modules() if isinstance(module, nn.Conv2d))
    first.weight = nn.Parameter(torch.cat([first.weight, first.weight.mean(1, keepdim=True)], 1).detach())
    first.in_channels = 4
    return RGBDFCN(EarlyFusion(Normalize(*PIXELS[pixels]), fcn), "metres")


def _fcn(stride: int) -> Callable[..., FCN]:
    if stride not in STRIDES:
        raise unknown("stride", str(stride), map(str, STRIDES))
    return STRIDES[stride]
