"""Faster R-CNN: where may an object be, what is it, and where exactly (Ren, 2015; Lin, 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masklet.models import unknown
from masklet.models.base import ShorterSide, extends, objects_of, predict_instances
from masklet.ops import mask_targets
from masklet.ops.boxes import CASCADE_DETECTRON2, ROI_CODER, DeltaCoder, at_least
from masklet.ops.paste import Placement, continuous, whole_pixels
from masklet.ops.roi import roi_align, roi_align_max, roi_pool, roi_warp, snap
from masklet.parts.anchors import Anchors, Cells, Step, by_share, by_stride, ratio_major, rounded, size_major
from masklet.parts.backbones import build_backbone, supported
from masklet.parts.backbones.resnet import ResNet
from masklet.parts.backbones.sequence import FeatureSequence
from masklet.parts.box_heads import (
    HALF,
    NMS,
    BoxBranch,
    BoxPredictor,
    Detections,
    Pick,
    StageHead,
    Truth,
    TwoFC,
    any_extent,
)
from masklet.parts.cascade import PAPER, Cascading, claiming, probs_of_mean, relabelled
from masklet.parts.mask_heads import Targets
from masklet.parts.matching import BandMatcher, ClaimingMatcher, Match
from masklet.parts.norm import FrozenBatchNorm2d, Normalize, Pixels, freeze_batch_norm
from masklet.parts.proposals import RESCUING, RPN, Budget, Enough, RPNHead, of_asked, of_sampled, some_extent
from masklet.parts.pyramid import FPN, Pool, Pyramid, PyramidPooler, Reader, SingleLevel, ThroughStage
from masklet.parts.sampling import Hardest
from masklet.structures import Classes, Instances
from masklet.structures.errors import UserError

MAPS = ("c2", "c3", "c4", "c5")  # strides 4 to 32


class FasterRCNN(nn.Module):
    """Boxes, classes and scores of objects: a pyramid, proposals on it, and a second look at every proposal."""

    classes: Classes
    spec: dict[str, Any]

    def __init__(
        self, backbone: nn.Module, fpn: Pyramid, rpn: RPN, box: nn.Module, pixels: Pixels, resize: ShorterSide
    ) -> None:
        super().__init__()
        self.normalize, self.frame, self.resize = Normalize(*pixels), fpn.frame, resize
        self.backbone, self.fpn, self.rpn, self.box = backbone, fpn, rpn, box

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return self.fpn(self.backbone(self.frame.pad(self.normalize(images))))

    def detect(self, images: Float[Tensor, "b 3 h w"], fixed: bool = False) -> dict[str, Tensor]:
        """`boxes` (b, d, 4), `scores` and `labels` of the objects; `fixed` leaves unused places, of score 0."""
        _, found = find(self, images, fixed)
        return {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """The same number of places for each image, best first; those with the score 0 are unused."""
        return self.detect(images, fixed=True)

    def loss(self, images: Float[Tensor, "b 3 h w"], targets: Sequence[Instances]) -> dict[str, Tensor]:
        _, _, losses = learn(self, images, objects_of(images, targets))
        return losses

    def predict(self, images: Any) -> Instances | list[Instances]:
        return predict_instances(self, images)


def find(model: Any, images: Float[Tensor, "b 3 h w"], fixed: bool) -> tuple[dict[str, Tensor], Detections]:
    """The pyramid, and the boxes that two stages find on it; `fixed` leaves unused places, of score 0."""
    height, width = images.shape[-2:]
    sizes, pyramid = [(height, width)] * len(images), model.features(images)
    proposals = model.rpn.propose(model.rpn(pyramid, model.frame.covers(height, width)), sizes)
    found = model.box(pyramid, proposals if fixed else proposals.trimmed(), sizes)
    return pyramid, found if fixed else found.trimmed()


def learn(
    model: Any, images: Float[Tensor, "b 3 h w"], objects: Sequence[Instances], boxes: Sequence[Tensor] | None = None
) -> tuple[dict[str, Tensor], Any, dict[str, Tensor]]:
    """The pyramid, the proposals that were sampled with what they should be, and the losses of the two stages.

    `boxes` are those to find, where they are not the objects' upright ones.
    """
    boxes = [t.boxes for t in objects] if boxes is None else boxes
    boxes, labels = [b.to(images) for b in boxes], [t.labels.to(images.device) for t in objects]
    truth = Truth(boxes, labels, [t.size for t in objects])
    pyramid = model.features(images)
    candidates = model.rpn(pyramid, model.frame.covers(images.shape[2], images.shape[3]))
    proposals = model.rpn.propose(candidates, truth.sizes)
    sampled, losses = model.box.learn(pyramid, proposals.each(), truth)
    return pyramid, sampled, {**model.rpn.loss(candidates, boxes), **losses}


TRAIN, TEST = Budget(2000, 1000), Budget(1000, 1000)
LARGE = ShorterSide(800, 1333)


@dataclass(frozen=True)
class Style:
    """What the papers leave open, as a code base settled it; its weights want the same.

    Our own choice is the default. `docs/systems/mask_rcnn.md` has the table.
    """

    pixels: Pixels | None = None  # as the backbone has them
    stride_in_1x1: bool = False
    cells: Cells = size_major
    step: Step = by_stride
    pool: Pool = roi_align
    rpn_train: Budget = TRAIN
    rpn_test: Budget = TEST
    rpn_matcher: Match = RESCUING
    rpn_beta: float = 0.0
    rpn_divisor: Callable[[int, int], int] = of_sampled
    proposal_enough: Enough = some_extent
    box_matcher: Match = HALF
    box_beta: float = 0.0
    box_enough: Enough = any_extent
    mask_targets: Targets = mask_targets.DETECTRON2
    placement: Placement = continuous
    resize: ShorterSide = LARGE
    cascade: Cascading = PAPER


MMDET = Style(cells=ratio_major, rpn_matcher=ClaimingMatcher(0.3, 0.7, 0.3), box_matcher=ClaimingMatcher(0.5, 0.5, 0.5))
X101 = Pixels((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), scale=255.0, bgr=True)  # ResNeXt 32x8d from FAIR
MSRA = Pixels((103.53, 116.28, 123.675), scale=255.0, bgr=True)  # detectron2's first ResNets
DETECTRON2 = Style(
    pixels=MSRA,
    stride_in_1x1=True,
    rpn_divisor=of_asked,
    cascade=Cascading(CASCADE_DETECTRON2, weights=(1.0, 1.0, 1.0), share=1 / 3, again=relabelled, masks=1),
)
STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "masklet": Style(),
        "torchvision": Style(
            cells=rounded,
            step=by_share,
            pool=partial(roi_align, samples=2, aligned=False),
            rpn_train=Budget(2000, 2000),
            rpn_beta=1 / 9,
            proposal_enough=partial(at_least, side=1e-3),
            box_beta=1 / 9,
            box_enough=partial(at_least, side=1e-2),
            mask_targets=mask_targets.TORCHVISION,
            placement=whole_pixels,
            resize=replace(LARGE, whole=math.floor, smooth=False),
        ),
        "fast_rcnn": Style(rpn_beta=1 / 9, box_matcher=BandMatcher(), box_beta=1.0),
        "detectron2": DETECTRON2,
        "detectron2_x101": replace(DETECTRON2, pixels=X101, stride_in_1x1=False),
        "detectron2_keypoints": replace(DETECTRON2, rpn_train=Budget(2000, 1500), box_beta=0.5),
        "mmdet": MMDET,
        "mmdet_caffe": replace(MMDET, pixels=MSRA, stride_in_1x1=True),  # configs with "caffe" in their names
        "mmdet_cascade": replace(
            MMDET,
            rpn_train=Budget(2000, 2000),
            rpn_beta=1 / 9,
            box_beta=1.0,
            cascade=Cascading(matcher=claiming, average=probs_of_mean, flow=1),
        ),
        "mmdet_x101": replace(MMDET, pixels=X101),  # 32x8d; its other ResNeXts are "mmdet"
    }
)


Parts = tuple[Pyramid, nn.Module | None, int]  # the maps that are read; a stage for the boxes, its channels


@dataclass(frozen=True)
class Levels:
    """Which maps of a backbone the proposals and boxes are read from.

    `divide` takes the backbone and the channels of a pyramid. `options` are wanted of the backbone, `train` and `test`
    replace the budgets of a style, as there is one level that all proposals come from.
    """

    divide: Callable[[Any, int], Parts]
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Budget | None = None
    test: Budget | None = None


def _pyramid(body: Any, channels: int) -> Parts:
    return FPN({c: body.channels[c] for c in MAPS}, body.strides, channels), None, 0


def _stage_for_boxes(body: Any, channels: int) -> Parts:
    if not isinstance(body, ResNet):
        raise UserError("only a ResNet has a last stage for the boxes", hint='choose levels="fpn" or "c5"')
    width = body.channels["c5"]
    stage = body.take_last()
    return SingleLevel("c4", body.channels["c4"], body.strides["c4"]), stage, width


def _last(body: Any, channels: int) -> Parts:
    return SingleLevel("c5", body.channels["c5"], body.strides["c5"]), None, 0


def _before_last_pool(body: Any, channels: int) -> Parts:
    if not isinstance(body, FeatureSequence) or not isinstance(body.features[-1], nn.MaxPool2d):
        raise UserError("only VGG and AlexNet end with a pool", hint='choose levels="fpn", "c4" or "c5"')
    body.drop_last("c5", "conv5")
    return SingleLevel("conv5", body.channels["conv5"], body.strides["conv5"]), None, 0


_alone = partial(Levels, train=Budget(12000, 2000), test=Budget(6000, 1000))
LEVELS: Mapping[str, Levels] = MappingProxyType(
    {
        "fpn": Levels(_pyramid),
        "c4": _alone(_stage_for_boxes),
        "dc5": _alone(_last, {"output_stride": 16, "contract_dilation": False}),
        "c5": _alone(_last),
        "conv5": _alone(_before_last_pool),
    }
)


def _snapped(
    features: Tensor, rois: Tensor, size: int, scale: float, reduce: Callable[[Tensor, int], Tensor] = F.max_pool2d
) -> Tensor:
    return roi_warp(features, snap(rois, scale), size, scale, reduce=reduce)


POOLS: Mapping[str, Pool | None] = MappingProxyType(  # Mask R-CNN, table 2c
    {
        "align": None,  # as the style has it
        "align_max": roi_align_max,
        "warp": _snapped,
        "warp_average": partial(_snapped, reduce=F.avg_pool2d),
        "pool": roi_pool,
    }
)


@dataclass(frozen=True)
class Trunk:
    """What the two-stage systems have in common, and the style that the rest follows."""

    backbone: nn.Module
    fpn: Pyramid
    rpn: RPN
    pixels: Pixels
    resize: ShorterSide
    style: Style
    num_classes: int
    hidden: int
    pick: Pick
    stage: nn.Module | None = None  # of the backbone, kept for the boxes
    width: int = 0  # channels of what the stage gives
    hardest: Hardest | None = None

    def pooler(self, size: int) -> PyramidPooler:
        """Reads boxes as `size` x `size` cells, from every level but the one on top."""
        return PyramidPooler({p: s for p, s in self.fpn.strides.items() if p != self.fpn.top}, size, self.style.pool)

    def reader(self) -> Reader:
        """Reads boxes for maps of them, masks for instance."""
        return self.pooler(14) if self.stage is None else ThroughStage(self.pooler(14), self.stage)

    @property
    def read_channels(self) -> int:
        """Channels of what `reader` gives."""
        return self.fpn.channels if self.stage is None else self.width

    @cached_property
    def box(self) -> BoxBranch:
        """The second stage of Faster R-CNN."""
        return self.branch()

    def branch(
        self,
        class_agnostic: bool = False,
        coder: DeltaCoder = ROI_CODER,
        matcher: Match | None = None,
        pool: Reader | None = None,
    ) -> BoxBranch:
        """A second stage of its own; `pool` reads boxes as 7x7 cells, or 14x14 for a stage of the backbone."""
        if self.stage is not None and pool is not None:
            raise UserError("the last stage can look at boxes once only", hint='choose levels="fpn", "dc5" or "c5"')
        head: TwoFC | StageHead
        if self.stage is None:
            head = TwoFC(self.fpn.channels, 7, self.hidden)
        else:
            head = StageHead(self.stage, self.width)
        return BoxBranch(
            pool or self.pooler(7 if self.stage is None else 14),
            head,
            BoxPredictor(head.width, self.num_classes, class_agnostic),
            coder,
            matcher or self.style.box_matcher,
            self.style.box_beta,
            self.pick,
            self.hardest,
        )


def trunk(
    num_classes: int = 80,
    backbone: str = "resnet50",
    weights: str | None = None,
    style: str = "masklet",
    norm: str = "frozen",
    norm_eps: float = 1e-5,
    short_side: int = 800,
    long_side: int = 1333,
    tile: int = 0,
    anchor_sizes: Sequence[int | float] = (32, 64, 128, 256, 512),
    channels: int = 256,
    hidden: int = 1024,
    threshold: float = 0.05,
    max_objects: int = 100,
    nms: str = "greedy",
    backbone_options: Mapping[str, Any] = MappingProxyType({}),
    levels: str = "fpn",
    pool: str = "align",
    hard_examples: int = 0,
) -> Trunk:
    """Backbone, pyramid and proposals of Faster R-CNN and what is built on it, and what its second stage needs.

    `backbone` is any with maps c2 to c5. `style` says which code base's conventions hold: "masklet", "torchvision",
    "detectron2" or "mmdet". `norm` is "frozen" (batch norm as it comes with the weights, eps `norm_eps`), or "batch" or
    "group" to train from nothing. Predicting resizes to `short_side`, but the longer one to `long_side` at most; 0
    leaves images as they are. Larger ones than `tile` are seen in overlapping windows of that side; 0 sees them whole.
    `anchor_sizes` of the five levels, or of the one there is, `channels` of the pyramid, `hidden` units of the box
    head. Objects with a score up to `threshold` are dropped, and all but `max_objects` (of a window). `nms` is
    "greedy", "soft_linear" or "soft_gaussian" (overlapping boxes lose score instead of their place).
    `backbone_options` are more options of the backbone, `{"window": 12}` of a Swin for instance.

    `levels` are "fpn" (a pyramid on all maps), "c4" (the map at stride 16; the last stage of a ResNet then looks at
    every box), "dc5" (the last map, dilated to stride 16), "c5" (the last map at stride 32) or "conv5" (that of a VGG
    before its last pool). `pool` is how boxes are
    read: "align" as the style has it, "align_max" with the largest sample, "warp" and "warp_average" from whole cells
    (these two cannot be exported), or "pool", the first of them.

    The second stage learns from 512 proposals of an image that are drawn at random, or from the `hard_examples` that it
    gets most wrong (OHEM; 128 in the paper).
    """
    for what, name, table in (("style", style, STYLES), ("levels", levels, LEVELS), ("pool", pool, POOLS)):
        if name not in table:
            raise unknown(what, name, table, what if what == "levels" else None)
    chosen, which = STYLES[style], LEVELS[levels]
    chosen = replace(chosen, pool=POOLS[pool] or chosen.pool)
    body = body_of(backbone, weights, chosen, norm, norm_eps, {**which.options, **backbone_options})
    fpn, stage, width = which.divide(body, channels)
    sizes = [(size,) for size in anchor_sizes] if len(fpn.strides) > 1 else [tuple(anchor_sizes)]
    if len(sizes) != len(fpn.strides):
        raise UserError(f"{len(sizes)} anchor sizes for {len(fpn.strides)} levels", hint="give one size for each level")
    anchors = Anchors(tuple(sizes), cells=chosen.cells, step=chosen.step)
    rpn = RPN(
        RPNHead(fpn.channels, anchors.count),
        anchors,
        fpn.strides,
        which.train or chosen.rpn_train,
        which.test or chosen.rpn_test,
        chosen.rpn_beta,
        chosen.rpn_divisor,
        chosen.proposal_enough,
        matcher=chosen.rpn_matcher,
    )
    if nms not in NMS:
        raise unknown("nms", nms, NMS, "choices")
    pick = Pick(chosen.box_enough, threshold, count=max_objects, distinct=NMS[nms])
    resize = replace(chosen.resize, short=short_side, long=long_side, tile=tile)
    pixels, hardest = chosen.pixels or body.pixels, Hardest(hard_examples) if hard_examples else None
    return Trunk(body, fpn, rpn, pixels, resize, chosen, num_classes, hidden, pick, stage, width, hardest)


def body_of(
    backbone: str, weights: str | None, style: Style, norm: str, norm_eps: float, options: Mapping[str, Any]
) -> Any:
    """A backbone as `style` has it, its norm as `trunk` explains."""
    wanted = {"stride_in_1x1": style.stride_in_1x1, **({} if norm == "frozen" else {"norm": norm})}
    body = build_backbone(backbone, weights=weights, **{**supported(backbone, **wanted), **options})
    if norm == "frozen":
        freeze_batch_norm(body)
        for module in body.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = norm_eps
    return body


@extends(trunk)
def faster_rcnn(**common: Any) -> FasterRCNN:
    """Faster R-CNN; arguments as `trunk`'s."""
    base = trunk(**common)
    return FasterRCNN(base.backbone, base.fpn, base.rpn, base.box, base.pixels, base.resize)
