"""Region proposals: where in the image any object may be (Ren et al., Faster R-CNN, 2015)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from masklet.ops.boxes import RPN_CODER, larger_than, pairwise_iou
from masklet.ops.nms import nms
from masklet.parts.anchors import Grid
from masklet.parts.matching import Match, Matcher
from masklet.parts.sampling import RandomSampler
from masklet.parts.winograd import Conv3x3

Sizes = Sequence[tuple[int, int]]  # height and width of every image of a batch, without its padding
Boxes = Sequence[Float[Tensor, "_ d"]]  # the objects of every image of a batch
Inside = Callable[[Tensor, Sizes], Tensor]  # boxes (b *n d) limited to their images
Enough = Callable[[Tensor], Bool[Tensor, "*n"]]  # which boxes are large enough


def clip_to(boxes: Float[Tensor, "b *n 4"], sizes: Sizes) -> Float[Tensor, "b *n 4"]:
    """The part of each box that lies inside its image."""
    limits = boxes.new_tensor([(w, h, w, h) for h, w in sizes]).view(len(sizes), *[1] * (boxes.ndim - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limits)


@dataclass(frozen=True)
class Candidates:
    """What an RPN says about every anchor of a batch: whether an object is there, and where its box should go."""

    anchors: tuple[Float[Tensor, "_ d"], ...]  # of every level
    logits: tuple[Float[Tensor, "b _"], ...]
    deltas: tuple[Float[Tensor, "b _ d"], ...]


@dataclass(frozen=True)
class Proposals:
    """Boxes of every image, most likely first. Every image has as many places; unused ones have the logit -inf."""

    boxes: Float[Tensor, "b n d"]
    logits: Float[Tensor, "b n"]

    def each(self) -> list[Float[Tensor, "_ d"]]:
        """The proposals of each image."""
        return [boxes[logits > -torch.inf] for boxes, logits in zip(self.boxes, self.logits, strict=True)]

    def trimmed(self) -> Proposals:
        """Without the places that no image uses."""
        used = int((self.logits > -torch.inf).sum(1).amax())
        return Proposals(self.boxes[:, :used], self.logits[:, :used])


@dataclass(frozen=True)
class Budget:
    """How many boxes of a level go into NMS, and how many of an image come out of it."""

    before: int
    after: int


def survivors(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], overlap: float) -> Bool[Tensor, " n"]:
    """Which boxes NMS keeps."""
    # Two more boxes, far away from all others: torchvision tells torch.export that NMS always keeps two.
    far = boxes.new_tensor([[-4, -4, -3, -3], [-2, -2, -1, -1]])
    kept = nms(torch.cat([boxes, far]), torch.cat([scores, scores.new_full((2,), -torch.inf)]), overlap)
    return boxes.new_zeros(boxes.shape[0] + 2, dtype=torch.bool).index_fill(0, kept, True)[:-2]


@runtime_checkable
class Coder(Protocol):
    """Boxes as deltas from other boxes, and back: `ops.boxes.DeltaCoder`, `ops.rotated.RotatedDeltaCoder`."""

    def encode(self, boxes: Float[Tensor, "*#n d"], targets: Float[Tensor, "*#n d"]) -> Float[Tensor, "*n d"]: ...
    def decode(self, boxes: Float[Tensor, "*#n d"], deltas: Float[Tensor, "*#n d"]) -> Float[Tensor, "*n d"]: ...


@dataclass(frozen=True)
class Geometry:
    """What proposals need to know about their boxes: four numbers for upright ones, five for rotated ones.

    `overlap` compares each with each, `inside` limits boxes to their images, `survivors` are those of every image that
    NMS keeps.
    """

    numbers: int
    coder: Coder
    overlap: Callable[[Tensor, Tensor], Tensor]
    inside: Inside
    survivors: Callable[[Tensor, Tensor, float], Bool[Tensor, "b n"]]


def of_images(boxes: Float[Tensor, "b n 4"], scores: Float[Tensor, "b n"], overlap: float) -> Bool[Tensor, "b n"]:
    """`survivors` of every image."""
    return torch.stack([survivors(*pair, overlap) for pair in zip(boxes, scores, strict=True)])


UPRIGHT = Geometry(4, RPN_CODER, pairwise_iou, clip_to, of_images)


def some_extent(boxes: Float[Tensor, "*n 4"]) -> Bool[Tensor, "*n"]:
    """Which boxes are more than a line (detectron2, mmdet)."""
    return larger_than(boxes, 0.0)


class RPNHead(nn.Module):
    """One 3x3 convolution, then for each of `anchors` boxes a logit and deltas; the same for all levels."""

    def __init__(self, channels: int, anchors: int, numbers: int = 4) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels)
        self.logits, self.deltas = nn.Conv2d(channels, anchors, 1), nn.Conv2d(channels, numbers * anchors, 1)
        for layer in (self.conv, self.logits, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b a h w"], Float[Tensor, "b ad h w"]]:
        x = self.conv(x).relu_()
        return self.logits(x), self.deltas(x)


def of_sampled(sampled: int, asked: int) -> int:
    """Losses are divided by the number of anchors that were looked at (torchvision, mmdet)."""
    return sampled


def of_asked(sampled: int, asked: int) -> int:
    """Losses are divided by the number of anchors that the sampler was asked for (detectron2)."""
    return asked


RESCUING = Matcher(0.3, 0.7, rescue=True)


class RPN(nn.Module):
    """Proposals from every level of a pyramid: score and move the anchors, keep the best, suppress duplicates.

    `train` and `test` are budgets. `beta` is where the loss of a delta becomes linear (0: at once), `divisor` what the
    losses are divided by, `matcher` says which anchors are for an object. NMS with IoU `overlap` works on every level
    for itself.
    """

    def __init__(
        self,
        head: RPNHead,
        anchors: Grid,
        strides: Mapping[str, int],
        train: Budget,
        test: Budget,
        beta: float = 0.0,
        divisor: Callable[[int, int], int] = of_sampled,
        enough: Enough = some_extent,
        geometry: Geometry = UPRIGHT,
        matcher: Match = RESCUING,
    ) -> None:
        super().__init__()
        self.head, self.anchors, self.strides, self.geometry = head, anchors, dict(strides), geometry
        self.matcher, self.sampler = replace(matcher, iou=geometry.overlap), RandomSampler(256, 0.5)
        self.budgets, self.overlap = {True: train, False: test}, 0.7
        self.beta, self.divisor, self.enough = beta, divisor, enough

    def forward(self, pyramid: Mapping[str, Tensor], size: tuple[int, int]) -> Candidates:
        """Every anchor of every level; `size` is that of the padded images."""
        maps = [pyramid[level] for level in self.strides]
        logits, deltas = zip(*map(self.head, maps), strict=True)
        return Candidates(
            anchors=tuple(self.anchors(maps, list(self.strides.values()), size)),
            logits=tuple(x.permute(0, 2, 3, 1).flatten(1) for x in logits),  # b hwa, as the anchors go
            deltas=tuple(x.permute(0, 2, 3, 1).reshape(len(x), -1, self.geometry.numbers) for x in deltas),
        )

    @torch.no_grad()
    def propose(self, candidates: Candidates, sizes: Sizes) -> Proposals:
        """The boxes that look most like objects, inside their images; nothing is learned through them."""
        budget, geometry = self.budgets[self.training], self.geometry
        boxes, logits = [], []
        levels = zip(candidates.anchors, candidates.logits, candidates.deltas, strict=True)
        for anchors, level_logits, deltas in levels:
            best, where = level_logits.topk(min(budget.before, level_logits.shape[1]), 1)
            moved = geometry.coder.decode(anchors[where], deltas.take_along_dim(where[..., None], 1))
            real = moved.isfinite().all(-1) & best.isfinite()
            moved = geometry.inside(moved.where(real[..., None], 0), sizes)
            best = best.where(real & self.enough(moved), -torch.inf)
            boxes.append(moved)
            logits.append(best.where(geometry.survivors(moved, best, self.overlap), -torch.inf))
        joined, scores = torch.cat(boxes, 1), torch.cat(logits, 1)
        scores, where = scores.topk(min(budget.after, scores.shape[1]), 1)
        return Proposals(joined.take_along_dim(where[..., None], 1), scores)

    def loss(self, candidates: Candidates, objects: Boxes) -> dict[str, Tensor]:
        """Is there an object (`rpn_class`), and how far is its box (`rpn_box`), over a sample of the anchors."""
        anchors, logits = torch.cat(candidates.anchors), torch.cat(candidates.logits, 1)
        deltas = torch.cat(candidates.deltas, 1)
        chosen, labels, moves, aims = [], [], [], []
        for i, boxes in enumerate(objects):
            which, kind = self.matcher(anchors, boxes)
            positive, negative = self.sampler(kind)
            chosen.append(logits[i, torch.cat([positive, negative])])
            labels += [torch.ones_like(logits[i, positive]), torch.zeros_like(logits[i, negative])]
            moves.append(deltas[i, positive])
            aims.append(self.geometry.coder.encode(anchors[positive], boxes[which[positive]]))
        sampled = torch.cat(chosen)
        divisor = max(self.divisor(len(sampled), self.sampler.count * len(objects)), 1)
        presence = F.binary_cross_entropy_with_logits(sampled, torch.cat(labels), reduction="sum")
        place = F.smooth_l1_loss(torch.cat(moves), torch.cat(aims), reduction="sum", beta=self.beta)
        return {"rpn_class": presence / divisor, "rpn_box": place / divisor}
