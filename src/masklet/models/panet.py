"""PANet: Mask R-CNN with short ways for information, up the pyramid, into every box and into masks (Liu, 2018)."""

from __future__ import annotations

from typing import Any

from masklet.models.base import extends
from masklet.models.faster_rcnn import trunk
from masklet.models.mask_rcnn import MaskRCNN
from masklet.parts.box_heads import BoxBranch, BoxPredictor
from masklet.parts.mask_heads import MaskBranch
from masklet.parts.path_aggregation import AllLevels, ConvsFC, FusionMaskHead, PathAggregation
from masklet.parts.pyramid import FPN
from masklet.structures.errors import UserError


@extends(trunk)
def panet(mask_channels: int = 256, **common: Any) -> MaskRCNN:
    """Path Aggregation Network.

    `mask_channels` of the mask head, whose maps for classes and for any object are added. The rest is as in
    `faster_rcnn.trunk`.
    """
    base, classes = trunk(**common), common["num_classes"]
    if not isinstance(base.fpn, FPN):
        raise UserError(f"panet has no levels={common['levels']!r}", hint='its paths are between levels: leave "fpn"')
    fpn, style = PathAggregation(base.fpn), base.style
    strides = {level: stride for level, stride in fpn.strides.items() if level != fpn.top}
    box = BoxBranch(
        AllLevels(strides, 7, style.pool),
        ConvsFC(len(strides), fpn.channels, 7, base.hidden),
        BoxPredictor(base.hidden, classes),
        matcher=style.box_matcher,
        beta=style.box_beta,
        pick=base.pick,
        hardest=base.hardest,
    )
    head = FusionMaskHead(len(strides), fpn.channels, classes, mask_channels)
    mask = MaskBranch(AllLevels(strides, 14, style.pool), head, style.mask_targets)
    return MaskRCNN(base.backbone, fpn, base.rpn, box, mask, base.pixels, base.resize, style.placement)
