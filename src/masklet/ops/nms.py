"""Which of many overlapping detections to keep: non-maximum suppression, greedy, soft, fast and by matrix.

What overlap means is the caller's: boxes, rotated boxes or masks. Indices point into what came in, best score first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torchvision.ops import batched_nms as _batched_nms
from torchvision.ops import nms as _nms

from masklet.ops import boxes as box_ops

Index = Int64[Tensor, " kept"]
Overlap = Callable[[Tensor, Tensor], Tensor]  # of boxes with their partners, broadcast, as `boxes.iou`
Decay = Callable[[Tensor], Tensor]  # what is left of a score, 0..1, beside a better detection with so much overlap


def nms(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], threshold: float) -> Index:
    """Best first, every box that overlaps no kept one by more than `threshold` (IoU); classes are not looked at."""
    _check(boxes.shape[0], scores, threshold)  # not len: an exported program does not know it
    return _nms(boxes, scores, threshold)


def batched_nms(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], groups: Int64[Tensor, " n"], threshold: float
) -> Index:
    """`nms` inside every group (class, pyramid level, image) on its own; groups do not suppress each other."""
    _check(len(boxes), scores, threshold, groups)
    return _batched_nms(boxes, scores, groups, threshold)


def greedy(
    overlap: Float[Tensor, "n n"],
    scores: Float[Tensor, " n"],
    threshold: float,
    groups: Int64[Tensor, " n"] | None = None,
) -> Index:
    """`nms` for any overlap, of masks or rotated boxes: a matrix with the overlap of each with each."""
    _check(len(overlap), scores, threshold, groups)
    order = scores.argsort(descending=True, stable=True)
    above = (overlap[order][:, order] > threshold).triu(1)
    if groups is not None:
        above &= groups[order][:, None] == groups[order]
    # Who is suppressed depends on who is kept. Round by round this is settled for at least one more detection from the
    # top, and in practice for all of them after a few rounds.
    keep = torch.ones_like(order, dtype=torch.bool)
    while True:
        settled = ~(above & keep[:, None]).any(0)
        if torch.equal(settled, keep):
            return order[keep]
        keep = settled


@dataclass(frozen=True)
class Linear:
    """1 - overlap, from `threshold` on. Bodla et al., Soft-NMS, 2017; with threshold 0 SOLO's linear kernel."""

    threshold: float = 0.3

    def __call__(self, overlap: Tensor) -> Tensor:
        return torch.where(overlap > self.threshold, 1 - overlap, 1)


@dataclass(frozen=True)
class Gaussian:
    """exp(-overlap^2 / sigma). Bodla et al., Soft-NMS, 2017. SOLO's "sigma" 2.0 is the inverse: `Gaussian(1 / 2.0)`."""

    sigma: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma is {self.sigma}; give a number above 0")

    def __call__(self, overlap: Tensor) -> Tensor:
        return (-overlap.square() / self.sigma).exp()


def soft_nms(
    boxes: Float[Tensor, "n d"],
    scores: Float[Tensor, " n"],
    groups: Int64[Tensor, " n"] | None = None,
    decay: Decay = Gaussian(),
    min_score: float = 0.001,
    overlap: Overlap = box_ops.iou,
) -> tuple[Index, Float[Tensor, " kept"]]:
    """Detections that overlap a better one lose score instead of their place; indices and new scores, best first.

    The best one is picked, all others of its group decay, and so on until the best has less than `min_score`.
    `overlap` compares boxes with their partners: `boxes.iou`, `boxes.inclusive_iou` (the original code: x1 and y1 are
    the last pixel), `rotated.iou`. Source: Bodla et al., Soft-NMS, 2017, figure 2.
    """
    _check(len(boxes), scores, groups=groups)
    members, valid = _by_group(groups, scores)  # groups side by side, so that a step picks in all of them at once
    if not members.numel():
        return members.flatten(), scores[:0]
    crowd = boxes[members]  # groups most d
    left = torch.where(valid, scores[members], -torch.inf)
    picks, picked_scores = [], []
    for _ in range(members.shape[1]):
        best, pick = left.max(1, keepdim=True)
        if not bool((best >= min_score).any()):
            break
        picks.append(members.gather(1, pick))
        picked_scores.append(best)
        chosen = crowd.gather(1, pick[..., None].expand(-1, -1, crowd.shape[-1]))
        left = (left * decay(overlap(chosen, crowd))).where(left > -torch.inf, -torch.inf)
        left.scatter_(1, pick, -torch.inf)
    if not picks:
        return members.flatten()[:0], scores[:0]
    index, kept = torch.cat(picks, 1).flatten(), torch.cat(picked_scores, 1).flatten()
    index, kept = index[kept >= min_score], kept[kept >= min_score]
    order = kept.argsort(descending=True, stable=True)
    return index[order], kept[order]


def _by_group(
    groups: Int64[Tensor, " n"] | None, scores: Float[Tensor, " n"]
) -> tuple[Int64[Tensor, "g m"], Bool[Tensor, "g m"]]:
    """The members of every group in a row, as long as the largest; which entries are real."""
    n = len(scores)
    if groups is None:
        return torch.arange(n, device=scores.device)[None], torch.ones(1, n, dtype=torch.bool, device=scores.device)
    order = groups.argsort(stable=True)
    _, count = groups[order].unique_consecutive(return_counts=True)
    place = torch.arange(int(count.max()) if n else 0, device=scores.device)
    valid = place < count[:, None]
    return order[(count.cumsum(0) - count)[:, None].add(place).where(valid, 0)], valid


@dataclass(frozen=True)
class Kept:
    """Detections that stay, best score first: which box, as which class, with which score."""

    index: Int64[Tensor, " kept"]
    labels: Int64[Tensor, " kept"]
    scores: Float[Tensor, " kept"]


def fast_nms(
    overlap: Float[Tensor, "n n"], scores: Float[Tensor, "n k"], threshold: float, per_class: int = 200
) -> Kept:
    """NMS in every class at once, where what is removed still removes others; `overlap` as in `greedy`.

    Every class keeps of its `per_class` best candidates those that overlap no better one by more than `threshold`, so
    that one box may come back under several labels. Source: Bolya et al., YOLACT, 2019, section 3.3 and code.
    """
    _check(len(overlap), scores, threshold)
    order = scores.T.argsort(descending=True, stable=True)[:, :per_class]  # k m
    within = overlap[order[:, :, None], order[:, None, :]].triu(1)  # k m m
    label, place = (~(within > threshold).any(1)).nonzero(as_tuple=True)
    index = order[label, place]
    best = scores[index, label].argsort(descending=True, stable=True)
    return Kept(index[best], label[best], scores[index, label][best])


def cross_class_fast_nms(
    overlap: Float[Tensor, "n n"], scores: Float[Tensor, "n k"], threshold: float, candidates: int = 200
) -> Kept:
    """`fast_nms` where every box has its best class only, and classes suppress each other (YOLACT's code)."""
    _check(len(overlap), scores, threshold)
    if not len(scores):
        none = torch.zeros(0, dtype=torch.long, device=scores.device)
        return Kept(none, none, scores.flatten())
    best, label = scores.max(1)
    order = best.argsort(descending=True, stable=True)[:candidates]
    index = order[~(overlap[order][:, order].triu(1) > threshold).any(0)]
    return Kept(index, label[index], best[index])


def matrix_nms(
    overlap: Float[Tensor, "n n"],
    scores: Float[Tensor, " n"],
    groups: Int64[Tensor, " n"] | None = None,
    decay: Decay = Gaussian(1 / 2.0),
) -> Float[Tensor, " n"]:
    """All scores decayed at once, without a loop: a better detection counts less, the more it is suppressed itself.

    Returns the new scores in the order that came in; the caller keeps those that are high enough. `overlap` as in
    `greedy`, usually of masks. Source: Wang et al., SOLOv2, 2020, section 3.3 and equation 5.
    """
    _check(len(overlap), scores, groups=groups)
    if not len(scores):
        return scores
    order = scores.argsort(descending=True, stable=True)
    within = overlap[order][:, order].triu(1)
    if groups is not None:
        within = within * (groups[order][:, None] == groups[order])
    own = decay(within.amax(0))[:, None]  # how much the better one of a pair is suppressed at least
    left = decay(within) / own.clamp(min=torch.finfo(own.dtype).tiny)
    # What is no pair has overlap 0, hence a ratio of 1 or more, and of the best detection just 1: no score rises.
    return scores.scatter(0, order, scores[order] * left.amin(0))


def _check(n: int, scores: Tensor, threshold: float = 0.5, groups: Tensor | None = None) -> None:
    if scores.shape[0] != n:
        raise ValueError(f"{n} detections but {scores.shape[0]} scores; give one score for each")
    if groups is not None and len(groups) != n:
        raise ValueError(f"{n} detections but {len(groups)} groups; name one for each")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; overlaps are 0..1, and 0.5 is usual")
