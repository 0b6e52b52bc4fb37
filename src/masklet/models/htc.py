"""Hybrid Task Cascade: boxes and masks refined in turns, and the whole image beside them (Chen et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.models.base import ShorterSide, extends, objects_of, predict_instances
from masklet.models.cascade_rcnn import stages
from masklet.models.faster_rcnn import find, trunk
from masklet.ops.paste import Placement
from masklet.parts.box_heads import Truth
from masklet.parts.cascade import CascadeBoxes, refined, weighted
from masklet.parts.mask_flow import MaskFlow, SemanticContext, WithContext, pixel_loss
from masklet.parts.mask_heads import FCNMaskHead
from masklet.parts.norm import Normalize, Pixels
from masklet.parts.proposals import RPN
from masklet.parts.pyramid import Pyramid, PyramidPooler, Reader
from masklet.structures import Classes, Instances, Masks
from masklet.structures.errors import UserError

CONTEXT = "context"  # beside the levels of the pyramid: the embedding of the semantic branch


class HTC(nn.Module):
    """Stages that find boxes, then masks in the new boxes; masks build on masks, and all know what is around them."""

    classes: Classes
    spec: dict[str, Any]
    semantic: Any

    def __init__(
        self,
        backbone: nn.Module,
        fpn: Pyramid,
        rpn: RPN,
        box: CascadeBoxes,
        mask: MaskFlow,
        semantic: SemanticContext | None,
        pixels: Pixels,
        resize: ShorterSide,
        placement: Placement,
    ) -> None:
        super().__init__()
        self.normalize, self.frame = Normalize(*pixels), fpn.frame
        self.resize, self.placement = resize, placement
        self.backbone, self.fpn, self.rpn = backbone, fpn, rpn
        self.box, self.mask, self.semantic = box, mask, semantic

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        pyramid = self.fpn(self.backbone(self.frame.pad(self.normalize(images))))
        if self.semantic is not None:
            pyramid["stuff"], pyramid[CONTEXT] = self.semantic(pyramid)
        return pyramid

    def detect(self, images: Float[Tensor, "b 3 h w"], fixed: bool = False) -> dict[str, Tensor]:
        """As `MaskRCNN.detect`."""
        pyramid, found = find(self, images, fixed)
        masks = self.mask(pyramid, found.rois(), found.labels.flatten()).unflatten(0, found.scores.shape)
        return {"boxes": found.boxes, "scores": found.scores, "labels": found.labels, "masks": masks}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """The same number of places for each image, best first; those with the score 0 are unused."""
        return self.detect(images, fixed=True)

    def loss(
        self,
        images: Float[Tensor, "b 3 h w"],
        targets: Sequence[Instances],
        stuff: Int[Tensor, "b h w"] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the proposals and of every stage; `stuff` is the class of every pixel, 255 where it is not known.

        Without `stuff` the semantic branch learns from what it does for boxes and masks only.
        """
        objects = objects_of(images, targets, "masks")
        boxes, labels = [t.boxes.to(images) for t in objects], [t.labels.to(images.device) for t in objects]
        truth = Truth(boxes, labels, [t.size for t in objects])
        masks = [t.masks or Masks(*t.size) for t in objects]
        pyramid = self.features(images)
        candidates = self.rpn(pyramid, self.frame.covers(images.shape[2], images.shape[3]))
        losses = self.rpn.loss(candidates, boxes)
        if self.semantic is not None:
            losses["semantic"] = self.pixels(pyramid["stuff"], stuff)
        proposals = self.rpn.propose(candidates, truth.sizes).each()
        return losses | self.refine(pyramid, proposals, truth, masks)

    def pixels(self, logits: Float[Tensor, "b k hs ws"], stuff: Int[Tensor, "b h w"] | None) -> Float[Tensor, ""]:
        if stuff is None:
            return 0 * logits.sum()  # so that all parameters have a gradient always
        largest = int(stuff.where(stuff != 255, 0).amax()) if stuff.numel() else 0
        if largest >= logits.shape[1]:
            raise UserError(
                f"stuff has the class {largest} but the model knows {logits.shape[1]}",
                hint=f"build it with stuff_classes={largest + 1}",
            )
        return STUFF_WEIGHT * pixel_loss(logits, stuff.to(logits.device), self.fpn.strides[self.semantic.fused])

    def refine(
        self, pyramid: dict[str, Tensor], proposals: Sequence[Tensor], truth: Truth, masks: Sequence[Masks]
    ) -> dict[str, Tensor]:
        """The losses of the stages: each moves boxes, its mask head learns in the moved ones, the next begins there."""
        losses: dict[str, Tensor] = {}
        how, steps = self.box.how, list(self.box.stages)
        sampled = steps[0].sample(proposals, truth.boxes, truth.labels)
        for i, stage in enumerate(steps):
            logits, deltas = stage.classify(pyramid, sampled.rois)
            losses |= weighted(stage.losses(logits, deltas, sampled), i, how)
            moved = refined(stage, sampled, logits, deltas, truth.sizes)
            inside = how.again(stage, moved, sampled, truth).positives()
            losses |= weighted(self.mask.loss(pyramid, inside, masks, i), i, how)
            if i + 1 < len(steps):
                sampled = how.again(steps[i + 1], moved, sampled, truth)
        return losses

    def predict(self, images: Any) -> Instances | list[Instances]:
        return predict_instances(self, images)


STUFF_WEIGHT = 0.2  # of the semantic loss (mmdet's configuration; the paper's figure says 1)


@extends(trunk)
def htc(mask_channels: int = 256, class_agnostic: bool = False, stuff_classes: int = 183, **common: Any) -> HTC:
    """Hybrid Task Cascade.

    `stuff_classes` of the semantic branch (COCO-stuff has 183), 0 for none of it. The rest is as in
    `cascade_mask_rcnn`.
    """
    base = trunk(**common)
    style, channels = base.style, base.fpn.channels
    boxes: Reader = base.pooler(7)
    grids: Reader = base.pooler(14)
    semantic = None
    if stuff_classes:
        levels = list(base.fpn.strides)
        semantic = SemanticContext(levels, channels, stuff_classes, "p3" if "p3" in levels else levels[0])
        around = PyramidPooler({CONTEXT: base.fpn.strides[semantic.fused]}, 14, style.pool)
        boxes, grids = WithContext(boxes, around), WithContext(grids, around)
    maps = 1 if class_agnostic else base.num_classes
    heads = [FCNMaskHead(channels, maps, mask_channels) for _ in style.cascade.coders]
    flow = MaskFlow(grids, heads, style.mask_targets, style.cascade.flow)
    box = stages(base, boxes)
    return HTC(base.backbone, base.fpn, base.rpn, box, flow, semantic, base.pixels, base.resize, style.placement)
