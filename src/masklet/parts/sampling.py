"""Which anchors and proposals a training step looks at: background is everywhere and would drown the objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from masklet.ops.nms import batched_nms
from masklet.parts.matching import NEGATIVE, POSITIVE

Sampler = Callable[[Int64[Tensor, " n"]], tuple[Int64[Tensor, " p"], Int64[Tensor, " q"]]]  # as `RandomSampler`


def everything(labels: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " q"]]:
    """Where all positives and all negatives are."""
    positive, negative = ((labels == kind).nonzero()[:, 0] for kind in (POSITIVE, NEGATIVE))
    return positive, negative


@dataclass(frozen=True)
class RandomSampler:
    """At most `count` boxes of an image, at most the share `positives` of them objects; negatives fill up the rest."""

    count: int
    positives: float

    def __call__(
        self, labels: Int64[Tensor, " n"], generator: torch.Generator | None = None
    ) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " q"]]:
        """Where the chosen positives and the chosen negatives are."""
        positive, negative = everything(labels)
        some = _draw(positive, int(self.count * self.positives), generator)
        return some, _draw(negative, self.count - len(some), generator)


def _draw(where: Int64[Tensor, " n"], count: int, generator: torch.Generator | None) -> Int64[Tensor, " m"]:
    if len(where) <= count:
        return where
    device = where.device if generator is None else generator.device
    return where[torch.randperm(len(where), device=device, generator=generator)[:count].to(where.device)]


@dataclass(frozen=True)
class Hardest:
    """The `count` proposals of each image that a detector gets most wrong, instead of any (OHEM, Shrivastava, 2016).

    Of those that overlap by more than `overlap` only the worst counts: the same mistake would be paid for many times.
    """

    count: int = 128
    overlap: float = 0.7

    def __call__(self, rois: Float[Tensor, "m 5"], losses: Float[Tensor, " m"]) -> Int64[Tensor, " q"]:
        """Where they are, worst first; `rois` are the number of the image, then x0 y0 x1 y1."""
        once = batched_nms(rois[:, 1:], losses, rois[:, 0].long(), self.overlap)
        same = rois[once, :1] == rois[:, 0].unique()
        rank = (same.cumsum(0) * same).sum(1)  # among those of its image, from 1
        return once[rank <= self.count]
