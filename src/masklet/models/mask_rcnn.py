"""Mask R-CNN: Faster R-CNN and, beside its boxes, a mask for each (He et al., 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from masklet.models import unknown
from masklet.models.base import ShorterSide, extends, objects_of, predict_instances
from masklet.models.faster_rcnn import Trunk, find, learn, trunk
from masklet.ops.paste import Placement
from masklet.parts.mask_heads import FCNMaskHead, MaskBranch, MLPMaskHead, SoftmaxMaskBranch
from masklet.parts.norm import Normalize, Pixels
from masklet.parts.path_aggregation import PathAggregation
from masklet.parts.proposals import RPN
from masklet.parts.pyramid import Pyramid
from masklet.structures import Classes, Instances, Masks


class MaskRCNN(nn.Module):
    """Objects with masks: a pyramid, proposals on it, a second look at every proposal, a mask for what is found."""

    classes: Classes
    spec: dict[str, Any]
    mask: Any

    def __init__(
        self,
        backbone: nn.Module,
        fpn: Pyramid | PathAggregation,
        rpn: RPN,
        box: nn.Module,
        mask: nn.Module,
        pixels: Pixels,
        resize: ShorterSide,
        placement: Placement,
    ) -> None:
        super().__init__()
        self.normalize, self.frame = Normalize(*pixels), fpn.frame
        self.resize, self.placement = resize, placement
        self.backbone, self.fpn, self.rpn, self.box, self.mask = backbone, fpn, rpn, box, mask

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return self.fpn(self.backbone(self.frame.pad(self.normalize(images))))

    def detect(self, images: Float[Tensor, "b 3 h w"], fixed: bool = False) -> dict[str, Tensor]:
        """`boxes` (b, d, 4), `scores` and `labels` of the objects, and `masks`, a small grid of probabilities for each.

        `fixed` leaves unused places, of score 0.
        """
        pyramid, found = find(self, images, fixed)
        masks = self.mask(pyramid, found.rois(), found.labels.flatten()).unflatten(0, found.scores.shape)
        return {"boxes": found.boxes, "scores": found.scores, "labels": found.labels, "masks": masks}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """The same number of places for each image, best first; those with the score 0 are unused."""
        return self.detect(images, fixed=True)

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Sequence[Instances]) -> dict[str, Tensor]:
        objects = objects_of(images, targets, "masks")
        pyramid, sampled, losses = learn(self, images, objects)
        masks = [t.masks or Masks(*t.size) for t in objects]
        return {**losses, **self.mask.loss(pyramid, sampled.positives(), masks)}

    def predict(self, images: Any) -> Instances | list[Instances]:
        return predict_instances(self, images)


def _convolutions(base: Trunk, maps: int, width: int) -> nn.Module:
    return FCNMaskHead(base.read_channels, maps, width, depth=4 if base.stage is None else 0)


def _fully_connected(base: Trunk, maps: int, width: int, depth: int = 2) -> nn.Module:
    return MLPMaskHead(base.read_channels, maps, size=14 if base.stage is None else 7, depth=depth)


MASK_HEADS: Mapping[str, Callable[[Trunk, int, int], nn.Module]] = MappingProxyType(
    {"fcn": _convolutions, "mlp2": _fully_connected, "mlp3": partial(_fully_connected, depth=3)}
)


@extends(trunk)
def mask_rcnn(
    mask_channels: int = 256,
    class_agnostic: bool = False,
    mask_head: str = "fcn",
    competing: bool = False,
    **common: Any,
) -> MaskRCNN:
    """Mask R-CNN.

    `mask_channels` of the mask head, which is one map for all classes if `class_agnostic`. `mask_head` is "fcn"
    (convolutions), or "mlp2" or "mlp3" (two or three fully connected layers of 1024 units, then all maps at once). If
    `competing`, classes and background compete for every cell of a mask (softmax instead of sigmoids). The rest is as
    in `faster_rcnn.trunk`.
    """
    base = trunk(**common)
    if mask_head not in MASK_HEADS:
        raise unknown("mask_head", mask_head, MASK_HEADS)
    maps = (1 if class_agnostic else common["num_classes"]) + competing
    branch = SoftmaxMaskBranch if competing else MaskBranch
    mask = branch(base.reader(), MASK_HEADS[mask_head](base, maps, mask_channels), base.style.mask_targets)
    return MaskRCNN(base.backbone, base.fpn, base.rpn, base.box, mask, base.pixels, base.resize, base.style.placement)
