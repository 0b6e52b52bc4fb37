"""PointRend: masks drawn as a renderer draws, coarse where they are plain and point by point at their boundary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.models import unknown
from masklet.models.base import extends, predict_semantic, upsample
from masklet.models.faster_rcnn import MAPS, STYLES, body_of, trunk
from masklet.models.mask_rcnn import MaskRCNN
from masklet.parts.losses import cross_entropy
from masklet.parts.norm import Normalize, Pixels
from masklet.parts.point_heads import CoarseMaskHead, PointBranch
from masklet.parts.points import PointHead, closest_classes, labels_at, sample_points, subdivide, uncertain_points
from masklet.parts.pyramid import FPN
from masklet.parts.semantic_fpn import SemanticFPNHead
from masklet.structures import Classes, SemanticMap


@extends(trunk)
def point_rend(
    coarse_hidden: int = 1024,
    point_channels: int = 256,
    train_points: int = 196,
    asked_points: int = 784,
    steps: int = 5,
    **common: Any,
) -> MaskRCNN:
    """Mask R-CNN whose masks are rendered, 224 x 224 (Kirillov et al., 2020).

    `coarse_hidden` units of the coarse mask head, `point_channels` of the point head. Training looks at `train_points`
    of every object; predicting doubles the 7 x 7 coarse mask `steps` times and asks for `asked_points` cells each time.
    The rest is as in `faster_rcnn.trunk`.
    """
    base, classes = trunk(**common), common["num_classes"]
    channels, level = base.fpn.channels, next(iter(base.fpn.strides))
    mask = PointBranch(
        level,
        base.fpn.strides[level],
        CoarseMaskHead(channels, classes, coarse_hidden),
        PointHead(channels, classes, point_channels),
        base.style.mask_targets,
        train_points,
        asked_points,
        steps,
    )
    return MaskRCNN(base.backbone, base.fpn, base.rpn, base.box, mask, base.pixels, base.resize, base.style.placement)


class PointRendSemantic(nn.Module):
    """Classes of pixels, first at a quarter of the resolution, then where that is unsure point by point."""

    align_corners = False
    classes: Classes
    spec: dict[str, Any]
    criterion: Callable[..., Tensor]

    def __init__(
        self,
        backbone: nn.Module,
        fpn: FPN,
        coarse: SemanticFPNHead,
        points: PointHead,
        pixels: Pixels,
        train_points: int,
        asked_points: int,
        steps: int,
    ) -> None:
        super().__init__()
        self.normalize, self.frame, self.criterion = Normalize(*pixels), fpn.frame, cross_entropy
        self.backbone, self.fpn, self.coarse, self.points = backbone, fpn, coarse, points
        self.level = next(iter(fpn.strides))
        self.train_points, self.asked_points, self.steps = train_points, asked_points, steps

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return self.frame.covers(height, width)

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return self.fpn(self.backbone(self.frame.pad(self.normalize(images))))

    def at(
        self, pyramid: Mapping[str, Tensor], coarse: Float[Tensor, "b k h4 w4"], points: Float[Tensor, "b p 2"]
    ) -> Float[Tensor, "b k p"]:
        """Scores of single points, which are shares of the (padded) image."""
        return self.points(sample_points(pyramid[self.level], points), sample_points(coarse, points))

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k hp wp"]:
        pyramid = self.features(images)
        coarse = self.coarse(pyramid)
        ask = partial(self.at, pyramid, coarse)
        return subdivide(coarse, ask, closest_classes, self.asked_points, self.steps)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        return upsample(self, self.scores(images), (images.shape[2], images.shape[3]))

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        """`main` of the coarse scores, enlarged, and `point` of the scores at points where they are unsure."""
        (height, width), ignore = targets.shape[1:], self.classes.ignore
        full = self.padded_size(height, width)
        padded = F.pad(targets, (0, full[1] - width, 0, full[0] - height), value=ignore)
        pyramid = self.features(images)
        coarse = self.coarse(pyramid)
        with torch.no_grad():
            points = uncertain_points(coarse.float(), closest_classes, self.train_points)
        return {
            "main": self.criterion(upsample(self, coarse, (height, width)), targets, ignore=ignore),
            "point": self.criterion(self.at(pyramid, coarse, points), labels_at(padded, points), ignore=ignore),
        }

    def predict(self, images: Any) -> SemanticMap | list[SemanticMap]:
        return predict_semantic(self, images)


def point_rend_semantic(
    num_classes: int = 19,
    backbone: str = "resnet50",
    weights: str | None = None,
    style: str = "masklet",
    norm: str = "frozen",
    channels: int = 256,
    coarse_channels: int = 128,
    point_channels: int = 256,
    train_points: int = 2048,
    asked_points: int = 8192,
    steps: int = 2,
) -> PointRendSemantic:
    """PointRend for classes of pixels, on a feature pyramid (Kirillov et al., 2020, sec. 5).

    `style` and `norm` of the backbone as in `trunk`, `channels` of the pyramid, `coarse_channels` of the head
    that scores every fourth pixel. Training looks at `train_points` of every image; predicting doubles the resolution
    `steps` times and asks for `asked_points` pixels each time.
    """
    if style not in STYLES:
        raise unknown("style", style, STYLES)
    body = body_of(backbone, weights, STYLES[style], norm, 1e-5, {})
    fpn = FPN({c: body.channels[c] for c in MAPS}, body.strides, channels)
    strides = {level: stride for level, stride in fpn.strides.items() if level != fpn.top}
    coarse = SemanticFPNHead(strides, channels, num_classes, coarse_channels)
    points = PointHead(channels, num_classes, point_channels)
    pixels = STYLES[style].pixels or body.pixels
    return PointRendSemantic(body, fpn, coarse, points, pixels, train_points, asked_points, steps)
