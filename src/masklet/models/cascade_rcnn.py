"""Cascade R-CNN, and the two ways of looking twice that its paper compares it with (Cai and Vasconcelos, 2018).

All are Faster R-CNN with another second stage; read `parts.cascade` beside this file.

    cascade_rcnn         H1 -> box -> H2 -> box -> H3 -> box   each trained on boxes of the one before, more strictly
    iterative_bbox       H1 -> box -> H1 -> box -> H1 -> box   one, trained once on proposals
    integral_loss_rcnn   H1 -> box, and six judges of it       all trained on proposals, each more strictly
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from masklet.models.base import extends
from masklet.models.faster_rcnn import FasterRCNN, Trunk, trunk
from masklet.models.mask_rcnn import MaskRCNN
from masklet.parts.cascade import CascadeBoxes, CascadeMasks, Gently, IntegralBoxes, IterativeBoxes, judge
from masklet.parts.mask_heads import FCNMaskHead, MaskBranch
from masklet.parts.pyramid import Reader
from masklet.structures.errors import UserError


def stages(base: Trunk, read: Reader | None = None) -> CascadeBoxes:
    """Second, third and fourth stage, as the style has them; `read` reads boxes as 7x7 cells."""
    _drawn_at_random(base)
    how = base.style.cascade
    pool = Gently(read or base.pooler(7), how.share)
    boxes = zip(how.coders, how.overlaps, strict=True)
    return CascadeBoxes([base.branch(True, coder, how.matcher(u), pool) for coder, u in boxes], how)


def _drawn_at_random(base: Trunk) -> None:
    if base.hardest is not None:
        raise UserError("only one second stage can learn from hard examples", hint="leave hard_examples out")


@extends(trunk)
def cascade_rcnn(**common: Any) -> FasterRCNN:
    """Cascade R-CNN; arguments as `faster_rcnn.trunk`'s. The boxes of all classes move alike."""
    base = trunk(**common)
    return FasterRCNN(base.backbone, base.fpn, base.rpn, stages(base), base.pixels, base.resize)


@extends(trunk)
def cascade_mask_rcnn(mask_channels: int = 256, class_agnostic: bool = False, **common: Any) -> MaskRCNN:
    """Cascade Mask R-CNN: masks from a head for each stage, or (style "detectron2") from one.

    `mask_channels` of the mask heads, which are one map for all classes if `class_agnostic`. The rest is as in
    `faster_rcnn.trunk`.
    """
    base = trunk(**common)
    how, maps = base.style.cascade, 1 if class_agnostic else base.num_classes
    heads = [FCNMaskHead(base.fpn.channels, maps, mask_channels) for _ in range(how.masks)]
    masks = CascadeMasks([MaskBranch(base.pooler(14), head, base.style.mask_targets) for head in heads], how)
    return MaskRCNN(
        base.backbone, base.fpn, base.rpn, stages(base), masks, base.pixels, base.resize, base.style.placement
    )


@extends(trunk)
def iterative_bbox(times: int = 3, **common: Any) -> FasterRCNN:
    """Faster R-CNN whose second stage is applied `times` times when it predicts; the rest as in `cascade_rcnn`."""
    if times < 1:
        raise UserError(f"times is {times}", hint="give 1 (Faster R-CNN) or more")
    base = trunk(**common)
    boxes = IterativeBoxes(base.branch(True), times, base.style.cascade.average)
    return FasterRCNN(base.backbone, base.fpn, base.rpn, boxes, base.pixels, base.resize)


@extends(trunk)
def integral_loss_rcnn(overlaps: Sequence[float] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75), **common: Any) -> FasterRCNN:
    """Faster R-CNN with a judge of classes for each of `overlaps`, rising; the rest as in `cascade_rcnn`."""
    if not overlaps or list(overlaps) != sorted(overlaps) or not 0 < min(overlaps) <= max(overlaps) <= 1:
        raise UserError(f"overlaps is {tuple(overlaps)}", hint="give one IoU or more from 0 to 1, the smallest first")
    first, *others = overlaps
    base = trunk(**common)
    _drawn_at_random(base)
    branch = base.branch(True, matcher=base.style.cascade.matcher(first))
    judges = [judge(branch.predictor.classes.in_features, base.num_classes) for _ in others]
    boxes = IntegralBoxes(branch, judges, others, base.style.cascade.average)
    return FasterRCNN(base.backbone, base.fpn, base.rpn, boxes, base.pixels, base.resize)
