"""R-CNN: every region is cut out, brought to one size and sent through a CNN of its own (Girshick et al., 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision import ops as tv

from masklet.models import unknown
from masklet.models.base import ShorterSide, predict_instances
from masklet.models.fast_rcnn import predict_in, regions_and_truth
from masklet.ops.boxes import ROI_CODER, pairwise_iou
from masklet.parts.backbones import build_backbone
from masklet.parts.box_heads import Pick, Sampled, Truth, TwoFC, becoming
from masklet.parts.matching import POSITIVE, Matcher
from masklet.parts.norm import Normalize
from masklet.parts.pyramid import as_rois
from masklet.parts.regions import SOURCES, Source
from masklet.parts.sampling import RandomSampler
from masklet.structures import Classes, Instances

AT_ONCE = 64  # crops that go through the CNN together while predicting
FAR, NEAR = 0.3, 0.6  # IoU up to which a region is background for a class's judge, and from which a box is moved


class RCNN(nn.Module):
    """Regions of `source` become crops, crops vectors; a linear judge per class, and a shift of the box per class.

    A crop holds its region and `context` pixels around it. `tuning` is what the CNN itself learns with.
    """

    classes: Classes
    spec: dict[str, Any]

    def __init__(
        self, backbone: Any, head: TwoFC, cells: int, num_classes: int, source: Source, pick: Pick, resize: ShorterSide
    ) -> None:
        super().__init__()
        self.normalize, self.resize = Normalize(*backbone.pixels), resize
        self.backbone, self.head, self.cells, self.source, self.pick = backbone, head, cells, source, pick
        self.tuning, self.judges = nn.Linear(head.width, num_classes + 1), nn.Linear(head.width, num_classes)
        self.deltas = nn.Linear(backbone.channels["c5"] * cells**2, 4 * num_classes)
        for layer in (self.tuning, self.judges, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        self.side, self.context = 224, 16
        self.matcher, self.sampler = Matcher(0.5, 0.5), RandomSampler(128, 0.25)
        self.coder, self.hardest = ROI_CODER, 64

    def crops(self, images: Float[Tensor, "b 3 h w"], rois: Float[Tensor, "m 5"]) -> Float[Tensor, "m 3 s s"]:
        """Regions stretched to the size of the CNN, with what is around them; a middling colour beyond the image."""
        middle, half = (rois[:, 1:3] + rois[:, 3:]) / 2, (rois[:, 3:] - rois[:, 1:3]) / 2
        half = half * self.side / (self.side - 2 * self.context)
        grown = torch.cat([rois[:, :1], middle - half, middle + half], 1)
        return tv.roi_align(self.normalize(images), grown, self.side, 1.0, 1, True)

    def look(
        self, images: Float[Tensor, "b 3 h w"], rois: Float[Tensor, "m 5"]
    ) -> tuple[Float[Tensor, "m e"], Float[Tensor, "m d"]]:
        """Of every region the CNN's last map as a vector, and what the fully connected layers make of it."""
        maps = F.adaptive_avg_pool2d(self.backbone(self.crops(images, rois))["c5"], self.cells)
        return maps.flatten(1), self.head(maps)

    def detect(self, images: Float[Tensor, "b 3 h w"], fixed: bool = False) -> dict[str, Tensor]:
        """`boxes` (b, d, 4), `scores` and `labels` of the objects; `fixed` leaves unused places, of score 0.

        A score is the sigmoid of the judge's margin.
        """
        proposals = self.source(images)
        b, n = proposals.logits.shape
        rois = as_rois(proposals.boxes.unbind())
        parts = (rois,) if torch.compiler.is_compiling() else rois.split(AT_ONCE)
        maps, vectors = (torch.cat(both) for both in zip(*(self.look(images, part) for part in parts), strict=True))
        probs = self.judges(vectors).sigmoid().unflatten(0, (b, n))
        probs = probs.where(proposals.logits[..., None] > -torch.inf, 0)
        deltas = self.deltas(maps).unflatten(1, (-1, 4)).unflatten(0, (b, n))
        boxes = self.coder.decode(proposals.boxes[:, :, None], deltas)
        found = self.pick(boxes, probs, [(images.shape[2], images.shape[3])] * b)
        found = found if fixed else found.trimmed()
        return {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """The same number of places for each image, best first; those with the score 0 are unused."""
        return self.detect(images, fixed=True)

    def loss(
        self,
        images: Float[Tensor, "b 3 h w"],
        targets: Sequence[Instances],
        boxes: Sequence[Float[Tensor, "_ 4"]] | None = None,
    ) -> dict[str, Tensor]:
        """The CNN's own classes (`class`), the judges' margins (`margin`) and the shifts (`box`), side by side.

        Judges and shifts learn from vectors that they cannot change, as in the paper, where they come after the CNN.
        `boxes` are the regions of every image, where they do not come from the model's own source.
        """
        truth, proposals = regions_and_truth(self, images, targets, boxes)
        sampled = self.sample(proposals, truth)
        maps, vectors = self.look(images, sampled.rois)
        margins = self.judges(vectors.detach())
        return {
            "class": F.cross_entropy(self.tuning(vectors), sampled.labels),
            "margin": self.hinge(margins, *self.judged(sampled, truth)),
            "box": self.shift(self.deltas(maps.detach()), sampled),
        }

    @torch.no_grad()
    def sample(self, proposals: Sequence[Float[Tensor, "_ 4"]], truth: Truth) -> Sampled:
        """A mix of regions of objects and of background; the objects' own boxes are regions too, and come last."""
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for own, boxes, kinds in zip(proposals, truth.boxes, truth.labels, strict=True):
            which, kind = self.matcher(own, boxes)
            chosen = torch.cat(self.sampler(kind))
            rois, number = torch.cat([own[chosen], boxes]), torch.arange(len(boxes), device=boxes.device)
            which, positive = torch.cat([which[chosen], number]), torch.cat([kind[chosen] == POSITIVE, number >= 0])
            parts.append((rois, *becoming(rois, which, positive, boxes, kinds, self.judges.out_features), which))
        images = list(zip(*parts, strict=True))
        labels, aims, objects = map(torch.cat, images[1:])
        return Sampled(as_rois(images[0]), labels, aims, objects, self.judges.out_features)

    @torch.no_grad()
    def judged(self, sampled: Sampled, truth: Truth) -> tuple[Bool[Tensor, "m k"], Bool[Tensor, "m k"]]:
        """For each judge the objects, true boxes only, and the background: what overlaps its class by less than .3."""
        rois, count = sampled.rois, sampled.num_classes
        objects = (sampled.labels < count) & (rois[:, 1:] == sampled.boxes).all(1)
        positive = F.one_hot(sampled.labels, count + 1)[:, :-1].bool() & objects[:, None]
        nearest = rois.new_zeros(len(rois), count)
        for i, (boxes, kinds) in enumerate(zip(truth.boxes, truth.labels, strict=True)):
            here = (rois[:, 0] == i).nonzero()[:, 0]
            if len(boxes):
                overlap = pairwise_iou(rois[here, 1:], boxes)
                own = F.one_hot(kinds, count).bool()
                nearest[here] = overlap[:, :, None].where(own, 0).amax(1)
        return positive, nearest < FAR

    def hinge(
        self, margins: Float[Tensor, "m k"], positive: Bool[Tensor, "m k"], negative: Bool[Tensor, "m k"]
    ) -> Float[Tensor, ""]:
        """How far objects are below 1, and the `hardest` background regions of each judge above -1: means of both."""
        below = (1 - margins).clamp(min=0)[positive]
        above = (1 + margins).clamp(min=0).where(negative, 0)
        above = above.topk(min(self.hardest, len(above)), 0).values
        return below.sum() / max(len(below), 1) + above.sum() / max(int((above > 0).sum()), 1)

    def shift(self, deltas: Float[Tensor, "m k4"], sampled: Sampled) -> Float[Tensor, ""]:
        """The squared error of the shift of regions that overlap their object by .6 or more."""
        count = sampled.num_classes
        own = (sampled.labels < count).nonzero()[:, 0]
        rois, aims = sampled.rois[own, 1:], sampled.boxes[own]
        near = own[pairwise_iou(rois, aims).diagonal() >= NEAR]
        said = deltas.unflatten(1, (count, 4))[near, sampled.labels[near]]
        wanted = self.coder.encode(sampled.rois[near, 1:], sampled.boxes[near])
        return (said - wanted).square().sum() / max(len(near), 1)

    def predict(self, images: Any, boxes: Any = None) -> Instances | list[Instances]:
        """`boxes` (n, 4) are the regions of one image, in its pixels; for several images a list of them."""
        return predict_instances(self, images) if boxes is None else predict_in(self, images, boxes)


def rcnn(
    num_classes: int = 20,
    backbone: str = "alexnet",
    weights: str | None = None,
    side: int = 227,
    context: int = 16,
    cells: int = 6,
    hidden: int = 4096,
    proposals: str = "segments",
    short_side: int = 0,
    threshold: float = 0.05,
    max_objects: int = 100,
) -> RCNN:
    """R-CNN with crops of `side` pixels, `context` of them around the region on every side, through any `backbone`.

    Its last map is brought to `cells` x `cells` and goes through two layers of `hidden` units. `proposals` are
    "segments" or "windows" (`parts.regions`), where none are given. Images whose shorter side is not `short_side` are
    resized before regions are looked for; 0 leaves them. Objects with a score up to `threshold` are dropped, and all
    but `max_objects`.
    """
    if proposals not in SOURCES:
        raise unknown("proposals", proposals, SOURCES, "sources")
    body = build_backbone(backbone, weights=weights)
    pick = Pick(threshold=threshold, overlap=0.3, count=max_objects)
    head = TwoFC(body.channels["c5"], cells, hidden)
    resize = ShorterSide(short_side, 10**6)
    model = RCNN(body, head, cells, num_classes, SOURCES[proposals](), pick, resize)
    model.side, model.context = side, context
    return model
