"""Boxes that are judged and moved more than once: by the same head again, by several judges, or by a cascade.

The three ways that Cai and Vasconcelos compare (Cascade R-CNN, 2018, figure 3 b-d). Each takes the place of a
`BoxBranch`: `learn` trains it, `forward` finds boxes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from masklet.ops.boxes import CASCADE_MMDET, DeltaCoder, iou, larger_than
from masklet.parts.box_heads import BoxBranch, Detections, Sampled, Truth, of_class
from masklet.parts.mask_heads import MaskBranch, map_of
from masklet.parts.matching import ClaimingMatcher, Match, Matcher
from masklet.parts.proposals import Boxes, Proposals, Sizes, clip_to
from masklet.parts.pyramid import Reader, as_rois
from masklet.parts.sampling import everything
from masklet.structures import Masks

Logits = Float[Tensor, "m k1"]


def mean_of_probs(opinions: Sequence[Logits]) -> Logits:
    """Probabilities as the mean of those of every judge (Cascade R-CNN's code, detectron2)."""
    return torch.stack([logits.softmax(1) for logits in opinions]).mean(0)


def probs_of_mean(opinions: Sequence[Logits]) -> Logits:
    """Probabilities from the mean of the logits of every judge (mmdet)."""
    return torch.stack(list(opinions)).mean(0).softmax(1)


Average = Callable[[Sequence[Tensor]], Tensor]


def moved(
    stage: BoxBranch, boxes: Float[Tensor, "m 4"], deltas: Float[Tensor, "m k 4"], labels: Int64[Tensor, " m"]
) -> Float[Tensor, "m 4"]:
    """Where `stage` moves each box that is of this class; nothing is learned through it."""
    there = stage.coder.decode(boxes, of_class(deltas, labels)).detach()
    return there.where(there.isfinite().all(-1, keepdim=True), boxes)


@dataclass(frozen=True)
class Gently:
    """Reads boxes as `read` does; only a `share` of the gradient goes back through the reading."""

    read: Reader
    share: float

    def __call__(self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m 5"]) -> Float[Tensor, "m c s s"]:
        x = self.read(pyramid, rois)
        if self.share == 1 or not x.requires_grad:
            return x
        held = x.detach()
        return held + self.share * (x - held)


def step_by_step(
    stages: Sequence[BoxBranch],
    pyramid: Mapping[str, Tensor],
    proposals: Proposals,
    sizes: Sizes,
    average: Average,
) -> Detections:
    """Every stage judges and moves the boxes that the one before has moved; all opinions count alike."""
    boxes, opinions = proposals.boxes, list[Tensor]()
    for i, stage in enumerate(stages):
        logits, deltas = stage.classify(pyramid, as_rois(boxes.unbind()))
        opinions.append(logits)
        if i + 1 < len(stages):
            best = logits[:, :-1].argmax(1)
            boxes = clip_to(moved(stage, boxes.flatten(0, 1), deltas, best).view_as(boxes), sizes)
    probs = average(opinions)[:, :-1].unflatten(0, proposals.logits.shape)
    ends = stages[-1].coder.decode(boxes[:, :, None], deltas.unflatten(0, proposals.logits.shape))
    return stages[-1].pick(ends, probs.where(proposals.logits[..., None] > -torch.inf, 0), sizes)


class IterativeBoxes(nn.Module):
    """(b) Iterative BBox: trained once, applied several `times`, also to boxes better than any that it learned from."""

    def __init__(self, stage: BoxBranch, times: int = 3, average: Average = mean_of_probs) -> None:
        super().__init__()
        self.stage, self.times, self.average = stage, times, average

    def forward(self, pyramid: Mapping[str, Tensor], proposals: Proposals, sizes: Sizes) -> Detections:
        return step_by_step([self.stage] * self.times, pyramid, proposals, sizes, self.average)

    def learn(self, pyramid: Mapping[str, Tensor], proposals: Boxes, truth: Truth) -> tuple[Sampled, dict[str, Tensor]]:
        return self.stage.learn(pyramid, proposals, truth)


def judge(width: int, num_classes: int) -> nn.Linear:
    """Logits of the classes and, last, of background, as in `BoxPredictor`."""
    layer = nn.Linear(width, num_classes + 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


class IntegralBoxes(nn.Module):
    """(c) Integral loss: judges that ask for more and more overlap look at the same boxes (Zagoruyko, MultiPath, 2016).

    `stage` has the first judge, for the overlap of its matcher; `judges` are for `overlaps`. Their boxes are not moved
    in between, so the strict ones see few positives.
    """

    def __init__(
        self,
        stage: BoxBranch,
        judges: Sequence[nn.Linear],
        overlaps: Sequence[float],
        average: Average = mean_of_probs,
    ) -> None:
        super().__init__()
        self.stage, self.judges, self.average = stage, nn.ModuleList(judges), average
        self.overlaps = tuple(overlaps)

    def opinions(
        self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m 5"]
    ) -> tuple[list[Logits], Float[Tensor, "m k 4"]]:
        """Logits of every judge (background last), and the deltas."""
        x = self.stage.head(self.stage.pool(pyramid, rois))
        logits, deltas = self.stage.predictor(x)
        return [logits, *(judge(x) for judge in self.judges)], deltas

    def forward(self, pyramid: Mapping[str, Tensor], proposals: Proposals, sizes: Sizes) -> Detections:
        opinions, deltas = self.opinions(pyramid, as_rois(proposals.boxes.unbind()))
        probs = self.average(opinions)[:, :-1].unflatten(0, proposals.logits.shape)
        boxes = self.stage.coder.decode(proposals.boxes[:, :, None], deltas.unflatten(0, proposals.logits.shape))
        return self.stage.pick(boxes, probs.where(proposals.logits[..., None] > -torch.inf, 0), sizes)

    def learn(self, pyramid: Mapping[str, Tensor], proposals: Boxes, truth: Truth) -> tuple[Sampled, dict[str, Tensor]]:
        sampled = self.stage.sample(proposals, truth.boxes, truth.labels)
        (first, *others), deltas = self.opinions(pyramid, sampled.rois)
        losses = self.stage.losses(first, deltas, sampled)
        for i, (logits, labels) in enumerate(zip(others, self.labels(sampled), strict=True), 2):
            losses[f"class{i}"] = F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)
        return sampled, losses

    def labels(self, sampled: Sampled) -> list[Int64[Tensor, " m"]]:
        """What each of `judges` should say: what overlaps its object too little for it is background."""
        background = torch.full_like(sampled.labels, sampled.num_classes)
        overlap = iou(sampled.rois[:, 1:], sampled.boxes)
        return [sampled.labels.where(overlap >= enough, background) for enough in self.overlaps]


@dataclass(frozen=True)
class Steps:
    """What every stage of a cascade was trained on."""

    each: tuple[Sampled, ...]

    def positives(self) -> Steps:
        """Those that are for an object."""
        return Steps(tuple(sampled.positives() for sampled in self.each))


def refined(
    stage: BoxBranch, sampled: Sampled, logits: Logits, deltas: Float[Tensor, "m k 4"], sizes: Sizes
) -> list[Float[Tensor, "_ 4"]]:
    """For every image, the boxes where `stage` moves what it was trained on: as what they are, or look like."""
    best = logits[:, :-1].argmax(1)
    labels = sampled.labels.where(sampled.labels < sampled.num_classes, best)
    boxes = moved(stage, sampled.rois[:, 1:], deltas, labels)
    return [clip_to(boxes[sampled.rois[:, 0] == i][None], [size])[0] for i, size in enumerate(sizes)]


def proposed(sampled: Sampled, images: int) -> list[Bool[Tensor, " _"]]:
    """For every image, which boxes are proposals and not the own box of their object."""
    other = (sampled.rois[:, 1:] != sampled.boxes).any(1) | (sampled.labels == sampled.num_classes)
    return [other[sampled.rois[:, 0] == i] for i in range(images)]


def resampled(stage: BoxBranch, boxes: Boxes, sampled: Sampled, truth: Truth) -> Sampled:
    """A new mix of the moved proposals; the objects' own boxes are given again, so the moved ones go (mmdet)."""
    keep = proposed(sampled, len(boxes))
    return stage.sample([own[kept] for own, kept in zip(boxes, keep, strict=True)], truth.boxes, truth.labels)


def relabelled(stage: BoxBranch, boxes: Boxes, sampled: Sampled, truth: Truth) -> Sampled:
    """All that were moved, what is left of the objects' own boxes too (detectron2)."""
    return stage.assign([own[larger_than(own, 0.0)] for own in boxes], truth.boxes, truth.labels, everything)


Again = Callable[[BoxBranch, Boxes, Sampled, Truth], Sampled]


def nearest(overlap: float) -> Matcher:
    """A box is for the object that it overlaps most, from `overlap` on."""
    return Matcher(overlap, overlap)


def claiming(overlap: float) -> ClaimingMatcher:
    """An object claims the box that overlaps it most, from `overlap` on (mmdet)."""
    return ClaimingMatcher(overlap, overlap, overlap)


@dataclass(frozen=True)
class Cascading:
    """What the paper leaves open, as a code base settled it.

    `matcher` makes the matcher of a stage from one of the `overlaps`. `weights` are those of the losses of the
    stages, `share` is how much of the gradient of each stage goes on to the pyramid, `again` makes the boxes that a
    stage is trained on from those of the one before, `average` makes one opinion of those of all stages, `masks` is
    the number of mask heads: one for each stage, or only for the first. `flow` is the number of mask heads, from the
    last, that predict together in a Hybrid Task Cascade.
    """

    coders: tuple[DeltaCoder, ...] = CASCADE_MMDET
    overlaps: tuple[float, ...] = (0.5, 0.6, 0.7)
    matcher: Callable[[float], Match] = nearest
    weights: tuple[float, ...] = (1.0, 0.5, 0.25)
    share: float = 1.0
    again: Again = resampled
    average: Average = mean_of_probs
    masks: int = 3
    flow: int = 3


PAPER = Cascading()


class CascadeBoxes(nn.Module):
    """(d) Cascade: every stage is trained on the boxes of the one before it and asks for more overlap."""

    stages: Any  # BoxBranch

    def __init__(self, stages: Sequence[BoxBranch], how: Cascading = PAPER) -> None:
        super().__init__()
        self.stages, self.how = nn.ModuleList(stages), how

    def forward(self, pyramid: Mapping[str, Tensor], proposals: Proposals, sizes: Sizes) -> Detections:
        return step_by_step(list(self.stages), pyramid, proposals, sizes, self.how.average)

    def learn(self, pyramid: Mapping[str, Tensor], proposals: Boxes, truth: Truth) -> tuple[Steps, dict[str, Tensor]]:
        """What each stage was trained on, and its losses, weighted and numbered from 1."""
        steps = [self.stages[0].sample(proposals, truth.boxes, truth.labels)]
        losses: dict[str, Tensor] = {}
        for i, stage in enumerate(self.stages):
            logits, deltas = stage.classify(pyramid, steps[i].rois)
            losses |= weighted(stage.losses(logits, deltas, steps[i]), i, self.how)
            if i + 1 < len(self.stages):
                boxes = refined(stage, steps[i], logits, deltas, truth.sizes)
                steps.append(self.how.again(self.stages[i + 1], boxes, steps[i], truth))
        return Steps(tuple(steps)), losses


def weighted(losses: Mapping[str, Tensor], stage: int, how: Cascading) -> dict[str, Tensor]:
    """Losses of a stage, as much as they count; their names say which stage it is."""
    return {f"{name}{stage + 1}": how.weights[stage] * loss for name, loss in losses.items()}


class CascadeMasks(nn.Module):
    """Mask branches for the stages of a cascade, or only the first: each learns on its stage, all predict together."""

    branches: Any  # MaskBranch

    def __init__(self, branches: Sequence[MaskBranch], how: Cascading = PAPER) -> None:
        super().__init__()
        self.branches, self.how = nn.ModuleList(branches), how

    def forward(
        self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m 5"], labels: Int64[Tensor, " m"]
    ) -> Float[Tensor, "m t t"]:
        """The mean of the probabilities of all heads."""
        x = self.branches[0].pool(pyramid, rois)
        return torch.stack([map_of(labels, branch.head(x)).sigmoid() for branch in self.branches]).mean(0)

    def loss(self, pyramid: Mapping[str, Tensor], positives: Steps, masks: Sequence[Masks]) -> dict[str, Tensor]:
        """`mask1` and so on: each branch on what the boxes of its stage were trained on."""
        losses: dict[str, Tensor] = {}
        for i, (branch, own) in enumerate(zip(self.branches, positives.each, strict=False)):
            losses |= weighted(branch.loss(pyramid, own, masks), i, self.how)
        return losses
