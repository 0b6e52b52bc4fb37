"""FCN on colour and depth: joined at the first convolution (early fusion) or at the scores (late fusion).

Two pictures go in, so these nets stand beside the table of models that take one: build them with `fcn_rgbd_early` and
`fcn_rgbd_late`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.data.images import as_batch
from masklet.models.base import evaluating, narrow
from masklet.models.fcn import FCN, PIXELS, fcn32s
from masklet.parts.losses import cross_entropy
from masklet.parts.norm import Normalize, Pixels
from masklet.structures import Classes, SemanticMap
from masklet.structures.errors import UserError

HHA = Pixels((132.431, 94.076, 118.477), scale=255.0)  # mean of the published NYUDv2 pictures, in their own order
LOG_DEPTH = 7.844  # mean of the logarithm of NYUDv2's depth in millimetres


class RGBDFCN(nn.Module):
    """Per-pixel classes from colour and depth, joined by `fusion` (Long et al., 2015, sec. 5: NYUDv2)."""

    classes: Classes
    criterion: Callable[..., Tensor]

    def __init__(self, fusion: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.fusion, self.classes, self.criterion = fusion, Classes.default(num_classes), cross_entropy

    def scores(self, images: Float[Tensor, "b 3 h w"], depth: Float[Tensor, "b d h w"]) -> Float[Tensor, "b k h w"]:
        return self.fusion(images, depth)

    def forward(self, images: Float[Tensor, "b 3 h w"], depth: Float[Tensor, "b d h w"]) -> Float[Tensor, "b k h w"]:
        return self.scores(images, depth)

    def loss(
        self, images: Float[Tensor, "b 3 h w"], depth: Float[Tensor, "b d h w"], targets: Int[Tensor, "b h w"]
    ) -> dict[str, Tensor]:
        return {"main": self.criterion(self.scores(images, depth), targets, ignore=self.classes.ignore)}

    def predict(self, images: Any, depth: Sequence[Float[Tensor, "d _ _"]]) -> list[SemanticMap]:
        """The class of every pixel of each image; `depth` has one map of the same size for each."""
        batch = list(as_batch(images))
        if len(batch) != len(depth):
            raise UserError(f"{len(depth)} depth maps for {len(batch)} images", hint="give one for each")
        for image, far in zip(batch, depth, strict=True):
            if image.shape[1:] != far.shape[1:]:
                sizes = [f"{x.shape[1]}x{x.shape[2]}" for x in (far, image)]
                raise UserError(f"the depth map is {sizes[0]} but its image is {sizes[1]}", hint="resize one of them")
        device = next(self.parameters()).device
        with evaluating(self), torch.inference_mode():
            found = [
                self.scores(image[None].to(device), far[None].to(device))
                for image, far in zip(batch, depth, strict=True)
            ]
        return [SemanticMap(narrow(scores[0].argmax(0), len(self.classes)), self.classes) for scores in found]


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
        far = depth.clamp(min=1.0).log() - LOG_DEPTH  # 0 was not measured: taken for a millimetre
        return self.fcn.scores(torch.cat([self.normalize(images), far], 1))


def fcn_rgbd_late(num_classes: int = 40, backbone: str = "vgg16", make: Callable[..., FCN] = fcn32s) -> RGBDFCN:
    """Late fusion; depth comes as HHA pictures (horizontal disparity, height, angle) in 0..1. 40 classes: NYUDv2.

    `make` is `fcn32s`, `fcn16s` or `fcn8s`. The enlarging filters are fixed, so adding before or after is the same.
    """
    depth = make(backbone, num_classes)
    depth.normalize = Normalize(*HHA)
    return RGBDFCN(LateFusion(make(backbone, num_classes), depth), num_classes)


def fcn_rgbd_early(num_classes: int = 40, backbone: str = "vgg16", make: Callable[..., FCN] = fcn32s) -> RGBDFCN:
    """Early fusion; depth comes in millimetres, 0 where it was not measured.

    The fourth channel of the first convolution starts as noise of the deviation that its first three have.
    """
    fcn = make(backbone, num_classes)
    fcn.normalize = nn.Identity()
    first = next(module for module in fcn.backbone.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        extra = torch.randn_like(first.weight[:, :1]) * first.weight.std()
        first.weight = nn.Parameter(torch.cat([first.weight, extra], 1))
    first.in_channels = 4
    return RGBDFCN(EarlyFusion(Normalize(*PIXELS["caffe"]), fcn), num_classes)
