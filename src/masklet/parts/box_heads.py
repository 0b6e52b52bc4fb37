"""The second stage of a detector: what each proposal is, and where exactly (Girshick, Fast R-CNN, 2015)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from masklet.ops.boxes import ROI_CODER, iou
from masklet.ops.nms import Decay, Gaussian, Linear, Overlap, batched_nms, soft_nms
from masklet.parts.matching import POSITIVE, Match, Matcher
from masklet.parts.proposals import Boxes, Coder, Enough, Inside, Proposals, Sizes, clip_to, survivors
from masklet.parts.pyramid import Reader, as_rois
from masklet.parts.sampling import Hardest, RandomSampler, Sampler, everything
from masklet.structures.errors import UserError


@dataclass(frozen=True)
class Detections:
    """Objects of every image, best first. Every image has as many places; unused ones have the score 0."""

    boxes: Float[Tensor, "b d r"]
    scores: Float[Tensor, "b d"]
    labels: Int64[Tensor, "b d"]

    def trimmed(self) -> Detections:
        """Without the places that no image uses."""
        used = int((self.scores > 0).sum(1).amax())
        return Detections(self.boxes[:, :used], self.scores[:, :used], self.labels[:, :used])

    def rois(self) -> Float[Tensor, "bd r1"]:
        return as_rois(self.boxes.unbind())


@dataclass(frozen=True)
class Sampled:
    """Proposals that a training step looks at, those of objects with the object that they are for."""

    rois: Float[Tensor, "m r1"]  # number of the image in the batch, box
    labels: Int64[Tensor, " m"]  # the number of classes is background
    boxes: Float[Tensor, "m r"]  # of their objects; their own where background
    objects: Int64[Tensor, " m"]  # number of the object in its image; 0 where background

    num_classes: int

    def positives(self) -> Sampled:
        """Those that are for an object."""
        return self[self.labels < self.num_classes]

    def __getitem__(self, keep: Tensor) -> Sampled:
        return Sampled(self.rois[keep], self.labels[keep], self.boxes[keep], self.objects[keep], self.num_classes)


@dataclass(frozen=True)
class Truth:
    """The objects of every image of a batch, as a training step should find them."""

    boxes: Boxes
    labels: Sequence[Int64[Tensor, " _"]]
    sizes: Sizes


def any_extent(boxes: Float[Tensor, "*n 4"]) -> Bool[Tensor, "*n"]:
    """All boxes (detectron2, mmdet)."""
    return torch.ones_like(boxes[..., 0], dtype=torch.bool)


class TwoFC(nn.Module):
    """Two fully connected layers over a map of `size` x `size` (Lin et al., FPN, 2017)."""

    def __init__(self, channels: int, size: int, hidden: int = 1024) -> None:
        super().__init__()
        self.fc1: nn.Module = nn.Linear(channels * size**2, hidden)
        self.fc2: nn.Module = nn.Linear(hidden, hidden)
        self.width = hidden

    def forward(self, x: Float[Tensor, "m c s s"]) -> Float[Tensor, "m d"]:
        return self.fc2(self.fc1(x.flatten(1)).relu()).relu()


def truncated(layer: nn.Module, rank: int) -> nn.Sequential:
    """The product of two thin layers that is nearest to a fully connected one (Fast R-CNN, 2015, sec. 3.1)."""
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
        rank = min(rank, len(s))
        first = nn.Linear(layer.in_features, rank, bias=False).to(layer.weight)
        second = nn.Linear(rank, layer.out_features).to(layer.weight)
        first.weight.copy_(s[:rank, None] * v[:rank])
        second.weight.copy_(u[:, :rank])
        second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


class StageHead(nn.Module):
    """A stage of the backbone, kept for the boxes, and the mean over what it gives (He et al., ResNet, 2015)."""

    def __init__(self, stage: nn.Module, width: int) -> None:
        super().__init__()
        self.stage, self.width = stage, width

    def forward(self, x: Float[Tensor, "m c s s"]) -> Float[Tensor, "m d"]:
        return self.stage(x).mean((2, 3))


class BoxPredictor(nn.Module):
    """From a vector per proposal: logits of the classes and, last, of background; `numbers` deltas for every class.

    If `class_agnostic`, as many deltas for all of them together.
    """

    def __init__(self, width: int, num_classes: int, class_agnostic: bool = False, numbers: int = 4) -> None:
        super().__init__()
        self.num_classes, self.moves = num_classes, (1 if class_agnostic else num_classes, numbers)
        self.classes, self.deltas = nn.Linear(width, num_classes + 1), nn.Linear(width, math.prod(self.moves))
        for layer, std in ((self.classes, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "m d"]) -> tuple[Float[Tensor, "m k1"], Float[Tensor, "m k r"]]:
        return self.classes(x), self.deltas(x).view(-1, *self.moves)


def of_class(deltas: Float[Tensor, "m k r"], labels: Int64[Tensor, " m"]) -> Float[Tensor, "m r"]:
    """The deltas of one class for each box, or those of all classes where there are no others."""
    return deltas[torch.arange(deltas.shape[0], device=deltas.device), labels.clamp(max=deltas.shape[1] - 1)]


# From boxes, scores (0 is no object), classes, IoU, and height and width of the image: which boxes NMS keeps, or which
# share of its score it leaves to each.
Distinct = Callable[[Tensor, Tensor, Tensor, float, tuple[int, int]], Tensor]


def upright_distinct(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    labels: Int64[Tensor, " n"],
    overlap: float,
    size: tuple[int, int],
) -> Bool[Tensor, " n"]:
    """Which boxes NMS keeps in every class for itself."""
    some = scores.nonzero()[:, 0]
    if torch.compiler.is_compiling():
        # What batched_nms does depends on how many boxes there are, which an exported program cannot know. So:
        # classes side by side instead of on top of each other, in double precision because that is far away.
        apart = boxes[some].double() + labels[some, None] * (2.0 + max(size))
        kept = survivors(apart, scores[some].double(), overlap)
    else:
        index = batched_nms(boxes[some], scores[some], labels[some], overlap)
        kept = torch.zeros_like(some, dtype=torch.bool).index_fill(0, index, True)
    return torch.zeros_like(scores, dtype=torch.bool).index_put((some,), kept)


@dataclass(frozen=True)
class SoftDistinct:
    """Which share of its score each box keeps beside better ones of its class: none where less than `least` is left.

    A box loses by `decay` for every better one that it overlaps, instead of being removed (Bodla et al., Soft-NMS,
    2017). The threshold is that of `decay`; `iou` compares boxes with their partners.
    """

    decay: Decay
    least: float = 0.001
    iou: Overlap = iou

    def __call__(
        self,
        boxes: Float[Tensor, "n r"],
        scores: Float[Tensor, " n"],
        labels: Int64[Tensor, " n"],
        overlap: float,
        size: tuple[int, int],
    ) -> Float[Tensor, " n"]:
        if torch.compiler.is_compiling():
            raise UserError("soft NMS has as many steps as there are boxes", hint='export a model with nms="greedy"')
        some = scores.nonzero()[:, 0]
        index, left = soft_nms(boxes[some], scores[some], labels[some], self.decay, self.least, self.iou)
        return torch.zeros_like(scores).index_put((some[index],), left / scores[some[index]])


NMS: Mapping[str, Distinct] = MappingProxyType(
    {
        "greedy": upright_distinct,
        "soft_linear": SoftDistinct(Linear(0.3)),
        "soft_gaussian": SoftDistinct(Gaussian(0.5)),
    }
)


@dataclass(frozen=True)
class Pick:
    """The objects among classified boxes: likely ones, once each, the best of every image.

    `enough` says which boxes are large enough, `threshold` is the least score, `overlap` the IoU from which NMS removes
    a box of the same class, `count` the most objects of an image. `inside` and `distinct` limit boxes to the image and
    compare them, which depends on their form.
    """

    enough: Enough = any_extent
    threshold: float = 0.05
    overlap: float = 0.5
    count: int = 100
    inside: Inside = clip_to
    distinct: Distinct = upright_distinct

    def __call__(self, boxes: Float[Tensor, "b n #k r"], probs: Float[Tensor, "b n k"], sizes: Sizes) -> Detections:
        """`boxes` for every class or one for all; what has the probability 0 is no object."""
        real = boxes.isfinite().all(-1) & probs.isfinite()
        boxes = self.inside(boxes.where(real[..., None], 0), sizes)
        probs = probs.where(real & self.enough(boxes) & (probs > self.threshold), 0)
        images = [self._best(*one) for one in zip(boxes, probs, sizes, strict=True)]
        return Detections(*(torch.stack(part) for part in zip(*images, strict=True)))

    def _best(
        self, boxes: Float[Tensor, "n k r"], probs: Float[Tensor, "n k"], size: tuple[int, int]
    ) -> tuple[Float[Tensor, "d r"], Float[Tensor, " d"], Int64[Tensor, " d"]]:
        """The `count` best of one image after NMS in every class."""
        boxes, scores, k = boxes.flatten(0, 1), probs.flatten(), probs.shape[1]
        labels = torch.arange(len(scores), device=scores.device) % k
        scores = scores * self.distinct(boxes, scores, labels, self.overlap, size)
        best, where = scores.topk(min(self.count, len(scores)))
        return boxes[where], best, where % k


HALF = Matcher(0.5, 0.5)  # a proposal is for an object that it overlaps by half (Fast R-CNN)


def becoming(
    rois: Float[Tensor, "m r"],
    which: Int64[Tensor, " m"],
    positive: Bool[Tensor, " m"],
    objects: Float[Tensor, "g r"],
    kinds: Int64[Tensor, " g"],
    background: int,
) -> tuple[Int64[Tensor, " m"], Float[Tensor, "m r"]]:
    """Class and box of the object that each proposal is for: `background` and its own box where it is for none."""
    label, target = torch.full_like(which, background), rois.clone()
    label[positive], target[positive] = kinds[which[positive]], objects[which[positive]]
    return label, target


class BoxBranch(nn.Module):
    """Proposals become classified boxes.

    `coder` and `matcher` say how boxes are written as deltas and which proposals are for an object, `pick` which boxes
    are objects in the end. `beta` is where the loss of a delta becomes linear (0: at once). Training looks at proposals
    that are drawn at random, or at the `hardest`, for which all of them are judged first.
    """

    def __init__(
        self,
        pool: Reader,
        head: nn.Module,
        predictor: BoxPredictor,
        coder: Coder = ROI_CODER,
        matcher: Match = HALF,
        beta: float = 0.0,
        pick: Pick = Pick(),
        hardest: Hardest | None = None,
    ) -> None:
        super().__init__()
        self.pool, self.head, self.predictor = pool, head, predictor
        self.coder, self.matcher = coder, matcher
        self.sampler: Sampler = RandomSampler(512, 0.25) if hardest is None else everything
        self.beta, self.pick, self.hardest = beta, pick, hardest

    def classify(
        self, pyramid: Mapping[str, Tensor], rois: Float[Tensor, "m r1"]
    ) -> tuple[Float[Tensor, "m k1"], Float[Tensor, "m k r"]]:
        """Logits (background last) and deltas of every class."""
        return self.predictor(self.head(self.pool(pyramid, rois)))

    def forward(self, pyramid: Mapping[str, Tensor], proposals: Proposals, sizes: Sizes) -> Detections:
        logits, deltas = self.classify(pyramid, as_rois(proposals.boxes.unbind()))
        b, n = proposals.logits.shape
        probs = logits.softmax(1)[:, :-1].unflatten(0, (b, n))
        probs = probs.where(proposals.logits[..., None] > -torch.inf, 0)
        boxes = self.coder.decode(proposals.boxes[:, :, None], deltas.unflatten(0, (b, n)))
        return self.pick(boxes, probs, sizes)

    @torch.no_grad()
    def sample(self, proposals: Boxes, objects: Boxes, labels: Sequence[Int64[Tensor, " _"]]) -> Sampled:
        """A mix of proposals of objects and of background; the objects' own boxes are proposals too."""
        together = [torch.cat(pair) for pair in zip(proposals, objects, strict=True)]
        return self.assign(together, objects, labels, self.sampler)

    def assign(
        self, proposals: Boxes, objects: Boxes, labels: Sequence[Int64[Tensor, " _"]], sampler: Sampler
    ) -> Sampled:
        """What the proposals that `sampler` chooses should become."""
        images = []
        for own, boxes, kinds in zip(proposals, objects, labels, strict=True):
            which, kind = self.matcher(own, boxes)
            chosen = torch.cat(sampler(kind))
            rois, which, positive = own[chosen], which[chosen], kind[chosen] == POSITIVE
            images.append((rois, *becoming(rois, which, positive, boxes, kinds, self.predictor.num_classes), which))
        parts = list(zip(*images, strict=True))
        label, target, which = map(torch.cat, parts[1:])
        return Sampled(as_rois(parts[0]), label, target, which, self.predictor.num_classes)

    def learn(self, pyramid: Mapping[str, Tensor], proposals: Boxes, truth: Truth) -> tuple[Sampled, dict[str, Tensor]]:
        """The proposals that were sampled with what they should be, and the losses on them."""
        sampled = self.sample(proposals, truth.boxes, truth.labels)
        if self.hardest is not None:
            with torch.no_grad():  # a look at all of them; the second pass learns from a few
                kind, place = self.each(*self.classify(pyramid, sampled.rois), sampled)
            sampled = sampled[self.hardest(sampled.rois, kind + place)]
        return sampled, self.loss(pyramid, sampled)

    def loss(self, pyramid: Mapping[str, Tensor], sampled: Sampled) -> dict[str, Tensor]:
        """What the proposals are (`class`), and how far the boxes of objects are (`box`), divided by all proposals."""
        return self.losses(*self.classify(pyramid, sampled.rois), sampled)

    def losses(
        self, logits: Float[Tensor, "m k1"], deltas: Float[Tensor, "m k r"], sampled: Sampled
    ) -> dict[str, Tensor]:
        """`loss` of what was said about the sampled proposals."""
        kind, place = self.each(logits, deltas, sampled)
        count = max(len(sampled.labels), 1)
        return {"class": kind.sum() / count, "box": place.sum() / count}

    def each(
        self, logits: Float[Tensor, "m k1"], deltas: Float[Tensor, "m k r"], sampled: Sampled
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
        """How wrong the class and the box of each proposal are; background has no box."""
        positive = (sampled.labels < self.predictor.num_classes).nonzero()[:, 0]
        aims = self.coder.encode(sampled.rois[positive, 1:], sampled.boxes[positive])
        moves = of_class(deltas[positive], sampled.labels[positive])
        kind = F.cross_entropy(logits, sampled.labels, reduction="none")
        place = F.smooth_l1_loss(moves, aims, reduction="none", beta=self.beta).sum(1)
        return kind, torch.zeros_like(kind).index_put((positive,), place.to(kind.dtype))
