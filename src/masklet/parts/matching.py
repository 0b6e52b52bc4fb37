"""Which object each anchor or proposal is for, by overlap."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from masklet.ops.boxes import pairwise_iou

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
Overlap = Callable[[Tensor, Tensor], Tensor]  # as `pairwise_iou`


def _by_overlap(overlap: Float[Tensor, "g n"], low: float, high: float) -> tuple[Tensor, Tensor]:
    """For each box the object with the largest IoU, and what that makes of it."""
    best, which = overlap.max(0)
    labels = torch.full_like(which, IGNORED)
    labels[best < low] = NEGATIVE
    labels[best >= high] = POSITIVE
    return which, labels


class _Matching(ABC):
    """Compares each object with each box by `iou`; what `decide` makes of that is where the rules differ."""

    iou: Overlap

    def __call__(
        self, boxes: Float[Tensor, "n d"], objects: Float[Tensor, "g d"]
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        """For each box the number of its object, and whether it is POSITIVE, NEGATIVE or IGNORED."""
        if not len(objects) or not len(boxes):
            nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
            return nothing, nothing.clone()  # NEGATIVE
        return self.decide(self.iou(objects, boxes))

    @abstractmethod
    def decide(self, overlap: Float[Tensor, "g n"]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        """Of every box the object's number and the kind, from the overlaps."""


@dataclass(frozen=True)
class Matcher(_Matching):
    """The object with the largest IoU; what overlaps less than `low` is background, between `low` and `high` nothing.

    With `rescue`, the boxes that overlap an object most are positive however little that is; each keeps the object
    that it overlaps most itself (Ren et al., 2015, sec. 3.1.2; detectron2 `Matcher`). An object that no box touches
    rescues none. `iou` compares each with each: boxes may be rotated.
    """

    low: float
    high: float
    rescue: bool = False
    iou: Overlap = pairwise_iou

    def decide(self, overlap: Float[Tensor, "g n"]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        which, labels = _by_overlap(overlap, self.low, self.high)
        if self.rescue:
            most = overlap.amax(1, keepdim=True)
            labels[((overlap == most) & (most > 0)).any(0)] = POSITIVE
        return which, labels


@dataclass(frozen=True)
class ClaimingMatcher(_Matching):
    """As `Matcher`, but an object claims the boxes that overlap it most, even those of another object.

    It must overlap them by `least`; of several claims the last one counts. Source: mmdet `MaxIoUAssigner`.
    """

    low: float
    high: float
    least: float
    iou: Overlap = pairwise_iou

    def decide(self, overlap: Float[Tensor, "g n"]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        which, labels = _by_overlap(overlap, self.low, self.high)
        most, number = overlap.amax(1, keepdim=True), torch.arange(1, len(overlap) + 1, device=overlap.device)
        last = ((overlap == most) & (most >= self.least)).mul(number[:, None]).amax(0)  # 0: claimed by none
        claimed = last > 0
        return torch.where(claimed, last - 1, which), torch.where(claimed, POSITIVE, labels)


@dataclass(frozen=True)
class BandMatcher(_Matching):
    """As `Matcher`, but background is only what overlaps an object by `least` (Fast R-CNN, 2015, sec. 2.3).

    Such boxes are harder to tell from objects. Where no box overlaps any by so much, all are background.
    """

    least: float = 0.1
    high: float = 0.5
    iou: Overlap = pairwise_iou

    def decide(self, overlap: Float[Tensor, "g n"]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        which, labels = _by_overlap(overlap, self.high, self.high)
        far = overlap.amax(0) < self.least
        if (near := ~far & (labels == NEGATIVE)).any():
            labels[far & ~near] = IGNORED
        return which, labels


Match = Matcher | ClaimingMatcher | BandMatcher
