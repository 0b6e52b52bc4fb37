"""Rotated Mask R-CNN: objects that lie across each other, in boxes that turn with them (mrlooi/rotated_maskrcnn).

Upright boxes of slanted neighbours overlap so much that suppression takes all but one for duplicates, and each box
shows several objects. Everything else is Mask R-CNN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn

from masklet.models.base import ShorterSide, extends, objects_of, predict_instances
from masklet.models.faster_rcnn import Trunk, find, learn, trunk
from masklet.ops import rotated
from masklet.ops.mask_targets import from_bitmaps_rotated
from masklet.ops.roi import rotated_roi_align
from masklet.parts.anchors import Anchors, RotatedAnchors
from masklet.parts.box_heads import BoxBranch, BoxPredictor, TwoFC
from masklet.parts.mask_heads import FCNMaskHead, MaskBranch
from masklet.parts.norm import Normalize, Pixels
from masklet.parts.proposals import RPN, RPNHead, clip_to
from masklet.parts.pyramid import Pyramid, PyramidPooler
from masklet.parts.rotated_boxes import HALF, NMS, ROI_CODER, ROTATED, anywhere, some_extent
from masklet.structures import Classes, Instances, Masks
from masklet.structures.errors import UserError


class RotatedMaskRCNN(nn.Module):
    """Objects with masks: a pyramid, rotated proposals on it, a second look at each, a mask in the frame of its box."""

    classes: Classes
    spec: dict[str, Any]

    def __init__(
        self,
        backbone: nn.Module,
        fpn: Pyramid,
        rpn: RPN,
        box: BoxBranch,
        mask: MaskBranch,
        pixels: Pixels,
        resize: ShorterSide,
    ) -> None:
        super().__init__()
        self.normalize, self.frame, self.resize = Normalize(*pixels), fpn.frame, resize
        self.backbone, self.fpn, self.rpn, self.box, self.mask = backbone, fpn, rpn, box, mask

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return self.fpn(self.backbone(self.frame.pad(self.normalize(images))))

    def detect(self, images: Float[Tensor, "b 3 h w"], fixed: bool = False) -> dict[str, Tensor]:
        """`rotated` boxes (b, d, 5), `boxes` around them (b, d, 4), `scores` and `labels` of the objects, and `masks`.

        A mask is a small grid of probabilities over the rotated box. `fixed` leaves unused places, of score 0.
        """
        pyramid, found = find(self, images, fixed)
        masks = self.mask(pyramid, found.rois(), found.labels.flatten()).unflatten(0, found.scores.shape)
        around = clip_to(rotated.bounds(found.boxes), [(images.shape[2], images.shape[3])] * len(images))
        scores, labels = found.scores, found.labels
        return {"boxes": around, "rotated": found.boxes, "scores": scores, "labels": labels, "masks": masks}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """The same number of places for each image, best first; those with the score 0 are unused."""
        return self.detect(images, fixed=True)

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Sequence[Instances]) -> dict[str, Tensor]:
        """Objects without rotated boxes get the smallest ones around their masks."""
        objects, boxes = zip(*map(turned, objects_of(images, targets, "masks")), strict=True)
        pyramid, sampled, losses = learn(self, images, objects, boxes)
        masks = [t.masks or Masks(*t.size) for t in objects]
        return {**losses, **self.mask.loss(pyramid, sampled.positives(), masks)}

    def predict(self, images: Any) -> Instances | list[Instances]:
        return predict_instances(self, images)


def turned(objects: Instances) -> tuple[Instances, Float[Tensor, "n 5"]]:
    """Objects and their rotated boxes, those of the masks where they came without; lines are left out."""
    masks = objects.masks or Masks(*objects.size)
    boxes = rotated.of_masks(masks.items) if objects.rotated is None else objects.rotated
    keep = some_extent(boxes)
    return objects[keep], boxes[keep]


@dataclass(frozen=True)
class Turned:
    """The parts of a trunk whose boxes are rotated."""

    rpn: RPN
    box: BoxBranch
    reader: PyramidPooler  # for masks


def turn(base: Trunk, ratios: Sequence[int | float], angles: Sequence[int | float], nms: str, pool: str) -> Turned:
    """What takes the place of a trunk's proposals and second stage; arguments as `rotated_mask_rcnn`'s."""
    if base.stage is not None or pool != "align":
        hint = 'choose levels="fpn", "dc5" or "c5", and pool="align"'
        raise UserError("rotated boxes are read off maps, by rotated RoIAlign", hint=hint)
    style, old = base.style, base.rpn
    anchors = RotatedAnchors(cast(Anchors, old.anchors).sizes, tuple(ratios), tuple(angles))
    rpn = RPN(
        RPNHead(base.fpn.channels, anchors.count, ROTATED.numbers),
        anchors,
        old.strides,
        old.budgets[True],
        old.budgets[False],
        old.beta,
        old.divisor,
        some_extent,
        ROTATED,
    )
    align = partial(rotated_roi_align, samples=2)
    read = [replace(base.pooler(side), pool=align, upright=rotated.upright) for side in (7, 14)]
    box = BoxBranch(
        read[0],
        TwoFC(base.fpn.channels, 7, base.hidden),
        BoxPredictor(base.hidden, base.num_classes, numbers=ROTATED.numbers),
        ROI_CODER,
        HALF,
        style.box_beta,
        replace(base.pick, enough=some_extent, inside=anywhere, distinct=NMS[nms]),
        base.hardest,
    )
    return Turned(rpn, box, read[1])


@extends(trunk)
def rotated_mask_rcnn(
    ratios: Sequence[int | float] = (0.5, 1.0, 2.0),
    angles: Sequence[int | float] = (-90.0, -60.0, -30.0),
    mask_channels: int = 256,
    **common: Any,
) -> RotatedMaskRCNN:
    """Rotated Mask R-CNN.

    At every position there are anchors of all `ratios` (height / width) at all `angles` (degrees, counter-clockwise).
    `mask_channels` of the mask head. The rest is as in `faster_rcnn.trunk`.
    """
    base = trunk(**common)
    parts = turn(base, ratios, angles, common["nms"], common["pool"])
    head = FCNMaskHead(base.fpn.channels, base.num_classes, mask_channels)
    mask = MaskBranch(parts.reader, head, from_bitmaps_rotated)
    return RotatedMaskRCNN(base.backbone, base.fpn, parts.rpn, parts.box, mask, base.pixels, base.resize)
