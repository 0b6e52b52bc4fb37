"""Rotated Mask R-CNN that also says how well each of its masks fits (mrlooi/rotated_maskrcnn, "MS")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from masklet.models.base import ShorterSide, extends, objects_of, predict_instances
from masklet.models.faster_rcnn import find, learn, trunk
from masklet.models.mask_scoring_rcnn import ScoresMasks
from masklet.models.rotated_mask_rcnn import turn, turned
from masklet.ops import rotated
from masklet.ops.mask_targets import from_bitmaps_rotated
from masklet.parts.box_heads import BoxBranch
from masklet.parts.mask_heads import FCNMaskHead, MaskBranch
from masklet.parts.mask_iou_heads import MaskIoUHead
from masklet.parts.norm import Normalize, Pixels
from masklet.parts.proposals import RPN, clip_to
from masklet.parts.pyramid import Pyramid
from masklet.parts.rotated_boxes import shares_of
from masklet.structures import Classes, Instances, Masks


class RotatedMaskScoringRCNN(ScoresMasks):
    """Rotated Mask R-CNN, and from the features of a box with its mask how much mask and object overlap."""

    classes: Classes
    spec: dict[str, Any]

    def __init__(
        self,
        backbone: nn.Module,
        fpn: Pyramid,
        rpn: RPN,
        box: BoxBranch,
        mask: MaskBranch,
        iou: MaskIoUHead,
        pixels: Pixels,
        resize: ShorterSide,
    ) -> None:
        super().__init__()
        self.normalize, self.frame, self.resize = Normalize(*pixels), fpn.frame, resize
        self.backbone, self.fpn, self.rpn, self.box, self.mask, self.iou = backbone, fpn, rpn, box, mask, iou

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return self.fpn(self.backbone(self.frame.pad(self.normalize(images))))

    def detect(self, images: Float[Tensor, "b 3 h w"], fixed: bool = False) -> dict[str, Tensor]:
        """As `RotatedMaskRCNN.detect`; a score is that of the class times the guessed IoU of the mask."""
        pyramid, found = find(self, images, fixed)
        best, masks = self.ranked(pyramid, found)
        around = clip_to(rotated.bounds(best.boxes), [(images.shape[2], images.shape[3])] * len(images))
        return {"boxes": around, "rotated": best.boxes, "scores": best.scores, "labels": best.labels, "masks": masks}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """The same number of places for each image, best first; those with the score 0 are unused."""
        return self.detect(images, fixed=True)

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Sequence[Instances]) -> dict[str, Tensor]:
        """Objects without rotated boxes get the smallest ones around their masks."""
        objects, boxes = zip(*map(turned, objects_of(images, targets, "masks")), strict=True)
        pyramid, sampled, losses = learn(self, images, objects, boxes)
        masks, own = [t.masks or Masks(*t.size) for t in objects], sampled.positives()
        return {**losses, **self.learn_masks(pyramid, own, masks, shares_of(own, masks))}

    def predict(self, images: Any) -> Instances | list[Instances]:
        return predict_instances(self, images)


@extends(trunk)
def rotated_mask_scoring_rcnn(
    ratios: Sequence[int | float] = (0.5, 1.0, 2.0),
    angles: Sequence[int | float] = (-90.0, -60.0, -30.0),
    mask_channels: int = 256,
    iou_hidden: int = 1024,
    **common: Any,
) -> RotatedMaskScoringRCNN:
    """Rotated Mask R-CNN with the MaskIoU head of Mask Scoring R-CNN, of `iou_hidden` units.

    `ratios` and `angles` of the anchors and `mask_channels` as in `rotated_mask_rcnn`, the rest as in
    `faster_rcnn.trunk`.
    """
    base = trunk(**common)
    parts = turn(base, ratios, angles, common["nms"], common["pool"])
    head = FCNMaskHead(base.fpn.channels, base.num_classes, mask_channels)
    mask = MaskBranch(parts.reader, head, from_bitmaps_rotated)
    iou = MaskIoUHead(base.fpn.channels, base.num_classes, mask_channels, iou_hidden)
    return RotatedMaskScoringRCNN(base.backbone, base.fpn, parts.rpn, parts.box, mask, iou, base.pixels, base.resize)
