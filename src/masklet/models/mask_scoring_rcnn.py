"""Mask Scoring R-CNN: Mask R-CNN that also says how well each of its masks fits (Huang et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from masklet.models.base import ShorterSide, extends, objects_of, predict_instances
from masklet.models.faster_rcnn import find, learn, trunk
from masklet.ops.paste import Placement
from masklet.parts.box_heads import BoxBranch, Detections, Sampled
from masklet.parts.mask_heads import FCNMaskHead, MaskBranch, map_of, mean_bce
from masklet.parts.mask_iou_heads import MaskIoUHead, mask_iou_loss, mask_ious, shares_of
from masklet.parts.norm import Normalize, Pixels
from masklet.parts.proposals import RPN
from masklet.parts.pyramid import Pyramid
from masklet.structures import Classes, Instances, Masks


class ScoresMasks(nn.Module):
    """What systems have in common that rank masks by how well they fit: a `mask` branch and an `iou` head."""

    mask: MaskBranch
    iou: MaskIoUHead

    def fits(
        self, cells: Float[Tensor, "m c s s"], masks: Float[Tensor, "m t t"], labels: Int64[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """The guessed IoU of each mask (probabilities) with its object."""
        return map_of(labels, self.iou(cells, masks))

    def ranked(self, pyramid: Mapping[str, Tensor], found: Detections) -> tuple[Detections, Float[Tensor, "b d t t"]]:
        """What was found, best first by the class's score times the guessed IoU of the mask, and the masks."""
        labels, shape = found.labels.flatten(), found.scores.shape
        cells = self.mask.pool(pyramid, found.rois())
        masks = map_of(labels, self.mask.head(cells)).sigmoid()
        guessed = self.fits(cells, masks, labels).clamp(0, 1).unflatten(0, shape)
        scores, order = (found.scores * guessed).sort(dim=1, descending=True, stable=True)
        places = torch.arange(shape[0], device=order.device)[:, None], order
        return replace(found, boxes=found.boxes[places], scores=scores, labels=found.labels[places]), masks.unflatten(
            0, shape
        )[places]

    def learn_masks(
        self, pyramid: Mapping[str, Tensor], own: Sampled, masks: Sequence[Masks], shares: Float[Tensor, " m"]
    ) -> dict[str, Tensor]:
        """The losses of the masks of sampled boxes, and of the guesses of how well they fit."""
        cells = self.mask.pool(pyramid, own.rois)
        logits = map_of(own.labels, self.mask.head(cells))
        aims = self.mask.aims(own, masks, logits.shape[-1])
        truth = mask_ious(logits.detach() > 0, aims, shares)
        guessed = self.fits(cells, logits.sigmoid(), own.labels)
        return {"mask": mean_bce(logits, aims), "mask_iou": mask_iou_loss(guessed, truth)}


class MaskScoringRCNN(ScoresMasks):
    """Mask R-CNN, and from the features of a box with its mask how much mask and object overlap.

    The class's score says that there is a dog; its mask may still be poor. The product of both ranks masks.
    """

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
        placement: Placement,
    ) -> None:
        super().__init__()
        self.normalize, self.frame = Normalize(*pixels), fpn.frame
        self.resize, self.placement = resize, placement
        self.backbone, self.fpn, self.rpn, self.box, self.mask, self.iou = backbone, fpn, rpn, box, mask, iou

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return self.fpn(self.backbone(self.frame.pad(self.normalize(images))))

    def detect(self, images: Float[Tensor, "b 3 h w"], fixed: bool = False) -> dict[str, Tensor]:
        """`boxes` (b, d, 4), `scores` and `labels` of the objects, and `masks`, a small grid of probabilities for each.

        `fixed` leaves unused places, of score 0. A score is that of the class times the guessed IoU of the mask.
        """
        pyramid, found = find(self, images, fixed)
        best, masks = self.ranked(pyramid, found)
        return {"boxes": best.boxes, "scores": best.scores, "labels": best.labels, "masks": masks}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """The same number of places for each image, best first; those with the score 0 are unused."""
        return self.detect(images, fixed=True)

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Sequence[Instances]) -> dict[str, Tensor]:
        objects = objects_of(images, targets, "masks")
        pyramid, sampled, losses = learn(self, images, objects)
        masks, own = [t.masks or Masks(*t.size) for t in objects], sampled.positives()
        return {**losses, **self.learn_masks(pyramid, own, masks, shares_of(own, masks))}

    def predict(self, images: Any) -> Instances | list[Instances]:
        return predict_instances(self, images)


@extends(trunk)
def mask_scoring_rcnn(mask_channels: int = 256, iou_hidden: int = 1024, **common: Any) -> MaskScoringRCNN:
    """Mask Scoring R-CNN.

    `mask_channels` of the mask head and of the convolutions of the MaskIoU head, which has `iou_hidden` units. The rest
    is as in `faster_rcnn.trunk`.
    """
    base, classes = trunk(**common), common["num_classes"]
    channels, depth, side = base.read_channels, *((4, 14) if base.stage is None else (0, 7))
    head = FCNMaskHead(channels, classes, mask_channels, depth)
    return MaskScoringRCNN(
        base.backbone,
        base.fpn,
        base.rpn,
        base.box,
        MaskBranch(base.reader(), head, base.style.mask_targets),
        MaskIoUHead(channels, classes, mask_channels, iou_hidden, side),
        base.pixels,
        base.resize,
        base.style.placement,
    )
