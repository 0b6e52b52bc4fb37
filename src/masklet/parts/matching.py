"""Which object each anchor or proposal is for, by overlap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from masklet.ops.boxes import pairwise_iou

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


@dataclass(frozen=True)
class Matcher:
    """The object with the largest IoU; what overlaps less than `low` is background, between `low` and `high` nothing.

    With `rescue`, the boxes that overlap an object most are positive however little that is; each keeps the object
    that it overlaps most itself (Ren et al., 2015, sec. 3.1.2; detectron2 `Matcher`). An object that no box touches
    rescues none. `iou` compares each with each: boxes may be rotated.
    """

    low: float
    high: float
    rescue: bool = False
    iou: Callable[[Tensor, Tensor], Tensor] = pairwise_iou

    def __call__(
        self, boxes: Float[Tensor, "n d"], objects: Float[Tensor, "g d"]
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        """For each box the number of its object, and whether it is POSITIVE, NEGATIVE or IGNORED."""
        if not len(objects):
            nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
            return nothing, nothing.clone()
        overlap = self.iou(objects, boxes)  # g n
        best, which = overlap.max(0)
        labels = torch.full_like(which, IGNORED)
        labels[best < self.low] = NEGATIVE
        labels[best >= self.high] = POSITIVE
        if self.rescue:
            most = overlap.amax(1, keepdim=True)
            labels[((overlap == most) & (most > 0)).any(0)] = POSITIVE
        return which, labels
