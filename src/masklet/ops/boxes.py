"""Boxes as x0 y0 x1 y1 in float pixels, ends exclusive."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Width times height; 0 for a box that ends before it begins."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def clip(boxes: Float[Tensor, "*n 4"], height: int, width: int) -> Float[Tensor, "*n 4"]:
    """The part of each box that lies inside the image."""
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def xywh_to_xyxy(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """From COCO's corner, width and height to two corners."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def xyxy_to_xywh(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """From two corners to COCO's corner, width and height."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def larger_than(boxes: Float[Tensor, "*n 4"], side: float) -> Bool[Tensor, "*n"]:
    """Which boxes are wider and higher than `side` pixels: detectron2's and mmdet's test for small boxes."""
    return (boxes[..., 2:] - boxes[..., :2] > side).all(-1)


def at_least(boxes: Float[Tensor, "*n 4"], side: float) -> Bool[Tensor, "*n"]:
    """Which boxes are `side` pixels or more wide and high: torchvision's test for small boxes."""
    return (boxes[..., 2:] - boxes[..., :2] >= side).all(-1)


def iou(a: Float[Tensor, "*#n 4"], b: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n"]:
    """Overlap of each box in `a` with its partner in `b`, 0..1; 0 where both are empty."""
    inter, union = _inter_and_union(a, b)
    return inter / union.where(union > 0, 1)


def inclusive_iou(a: Float[Tensor, "*#n 4"], b: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n"]:
    """Overlap as old detectors count it: x1 and y1 name the last pixel, so that every side is a pixel longer.

    Source: py-faster-rcnn, the original code of Soft-NMS.
    """
    last = a.new_tensor([0, 0, 1, 1])
    return iou(a + last, b + last)


def giou(a: Float[Tensor, "*#n 4"], b: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n"]:
    """Overlap that goes on below 0 for boxes apart: IoU less the empty share of the box around both; -1..1.

    Source: Rezatofighi et al., Generalized Intersection over Union, 2019, algorithm 1. Two boxes in one point give 0.
    """
    inter, union = _inter_and_union(a, b)
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.unbind(-1), b.unbind(-1)
    wide, high = torch.maximum(ax1, bx1) - torch.minimum(ax0, bx0), torch.maximum(ay1, by1) - torch.minimum(ay0, by0)
    hull = wide.clamp(min=0) * high.clamp(min=0)
    return inter / union.where(union > 0, 1) - (hull - union) / hull.where(hull > 0, 1)


def pairwise_iou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Overlap of every box in `a` with every box in `b`; 0 where both are empty."""
    return iou(a[:, None], b[None])


def pairwise_giou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Generalised overlap of every box in `a` with every box in `b`, -1..1."""
    return giou(a[:, None], b[None])


def pairwise_coverage(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Which share of every box in `a` lies in every box in `b` (IoF); COCO judges by it what lies in a crowd."""
    inter, _ = _inter_and_union(a[:, None], b[None])
    own = area(a)[:, None]
    return inter / own.where(own > 0, 1)


def _inter_and_union(
    a: Float[Tensor, "*#n 4"], b: Float[Tensor, "*#n 4"]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.unbind(-1), b.unbind(-1)
    wide = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp(min=0)
    high = (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp(min=0)
    inter = wide * high
    return inter, area(a) + area(b) - inter


Four = tuple[float, float, float, float]
GROWTH_LIMIT = 1000 / 16  # from the smallest anchor to beyond any image (Fast R-CNN's code; all zoos)


@dataclass(frozen=True)
class DeltaCoder:
    """How a network says where a box should go: shift in box widths and heights, logarithm of growth, times weights.

    `limit` is the largest growth of a side that decoding allows. Source: Girshick et al., R-CNN, 2014, appendix C;
    detectron2 `Box2BoxTransform`, torchvision `BoxCoder` (weights), mmdet `DeltaXYWHBBoxCoder` (see `with_stds`).
    """

    weights: Four = (1.0, 1.0, 1.0, 1.0)
    limit: float = GROWTH_LIMIT

    def __post_init__(self) -> None:
        if min(self.weights) <= 0:
            raise ValueError(f"weights are {self.weights}; give four numbers above 0")
        if self.limit < 1:
            raise ValueError(f"limit is {self.limit}; boxes must be allowed to keep their size, so give 1 or more")

    @classmethod
    def with_stds(cls, stds: Four, limit: float = GROWTH_LIMIT) -> DeltaCoder:
        """The same by standard deviations of the deltas, as mmdet and SSD ("variances") note them: 1 / weights."""
        if min(stds) <= 0:
            raise ValueError(f"standard deviations are {stds}; give four numbers above 0")
        x, y, w, h = stds
        return cls((1 / x, 1 / y, 1 / w, 1 / h), limit)

    def encode(self, boxes: Float[Tensor, "*#n 4"], targets: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n 4"]:
        """The deltas that take `boxes` to `targets`; both need sides longer than 0."""
        size, aim = boxes[..., 2:] - boxes[..., :2], targets[..., 2:] - targets[..., :2]
        shift = (targets[..., :2] + aim / 2 - boxes[..., :2] - size / 2) / size
        return torch.cat([shift, (aim / size).log()], -1) * boxes.new_tensor(self.weights)

    def decode(self, boxes: Float[Tensor, "*#n 4"], deltas: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n 4"]:
        """The boxes that `deltas` point to from `boxes`; for k classes give (n 1 4) and (n k 4)."""
        deltas = deltas / deltas.new_tensor(self.weights)
        size = boxes[..., 2:] - boxes[..., :2]
        centre = boxes[..., :2] + size / 2 + deltas[..., :2] * size
        half = deltas[..., 2:].clamp(max=math.log(self.limit)).exp() * size / 2
        return torch.cat([centre - half, centre + half], -1)


# What the zoos agree on, and where they do not: a head decodes with the coder that it was trained with.
RPN_CODER = DeltaCoder()
ROI_CODER = DeltaCoder((10.0, 10.0, 5.0, 5.0))
SSD_CODER = DeltaCoder.with_stds((0.1, 0.1, 0.2, 0.2))  # YOLACT's "variances" .1 and .2
CASCADE_DETECTRON2 = (ROI_CODER, DeltaCoder((20.0, 20.0, 10.0, 10.0)), DeltaCoder((30.0, 30.0, 15.0, 15.0)))
CASCADE_MMDET = (
    DeltaCoder.with_stds((0.1, 0.1, 0.2, 0.2)),
    DeltaCoder.with_stds((0.05, 0.05, 0.1, 0.1)),
    DeltaCoder.with_stds((0.033, 0.033, 0.067, 0.067)),  # not 1/30 and 1/15: a percent from detectron2's third stage
)


def to_distances(points: Float[Tensor, "*#n 2"], boxes: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n 4"]:
    """How far the left, top, right and bottom side are from a point; negative where the point is outside (FCOS)."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def from_distances(points: Float[Tensor, "*#n 2"], distances: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n 4"]:
    """The box whose left, top, right and bottom side are so far from a point (FCOS)."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def of_masks(masks: Bool[Tensor, "n h w"]) -> Float[Tensor, "n 4"]:
    """The smallest box around each mask; zeros where a mask is empty."""
    n, h, w = masks.shape
    if not masks.numel():
        return torch.zeros(n, 4, device=masks.device)
    columns, rows = masks.any(1).byte(), masks.any(2).byte()  # n w, n h
    first = [columns.argmax(1), rows.argmax(1)]
    last = [w - columns.flip(1).argmax(1), h - rows.flip(1).argmax(1)]
    return torch.stack(first + last, 1).float() * columns.any(1)[:, None]
