"""Fast R-CNN: the image is looked at once, and every region that comes from outside is read off its map (2015)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from masklet.data.images import as_batch
from masklet.models import unknown
from masklet.models.base import ShorterSide, extends, objects_of, predict_instances
from masklet.models.faster_rcnn import trunk
from masklet.parts.box_heads import BoxBranch, Truth, TwoFC, truncated
from masklet.parts.norm import Normalize, Pixels
from masklet.parts.pyramid import Pyramid
from masklet.parts.regions import SOURCES, Given, Source, as_given
from masklet.parts.sampling import RandomSampler
from masklet.structures import Classes, Instances
from masklet.structures.errors import UserError


class FastRCNN(nn.Module):
    """One map of the image, regions from `source`, each read off the map, classified and moved (Girshick, 2015)."""

    classes: Classes
    spec: dict[str, Any]

    def __init__(
        self,
        backbone: nn.Module,
        fpn: Pyramid,
        source: Source,
        box: BoxBranch,
        pixels: Pixels,
        resize: ShorterSide,
    ) -> None:
        super().__init__()
        self.normalize, self.frame, self.resize = Normalize(*pixels), fpn.frame, resize
        self.backbone, self.fpn, self.source, self.box = backbone, fpn, source, box

    def features(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return self.fpn(self.backbone(self.frame.pad(self.normalize(images))))

    def detect(self, images: Float[Tensor, "b 3 h w"], fixed: bool = False) -> dict[str, Tensor]:
        """`boxes` (b, d, 4), `scores` and `labels` of the objects; `fixed` leaves unused places, of score 0."""
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        found = self.box(self.features(images), self.source(images), sizes)
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
        """`boxes` are the regions of every image, where they do not come from the model's own source."""
        truth, proposals = regions_and_truth(self, images, targets, boxes)
        return self.box.learn(self.features(images), proposals, truth)[1]

    def predict(self, images: Any, boxes: Any = None) -> Instances | list[Instances]:
        """`boxes` (n, 4) are the regions of one image, in its pixels; for several images a list of them."""
        return predict_instances(self, images) if boxes is None else predict_in(self, images, boxes)


def regions_and_truth(
    model: Any,
    images: Float[Tensor, "b 3 h w"],
    targets: Sequence[Instances],
    boxes: Sequence[Float[Tensor, "_ 4"]] | None,
) -> tuple[Truth, list[Float[Tensor, "_ 4"]]]:
    """What a training step should find, and the regions that it looks at."""
    objects = objects_of(images, targets)
    if boxes is not None and len(boxes) != len(images):
        raise UserError(f"{len(images)} images but boxes of {len(boxes)}", hint="give the regions of each image")
    proposals = model.source(images) if boxes is None else as_given(boxes, images)
    truth = Truth(
        [t.boxes.to(images) for t in objects],
        [t.labels.to(images.device) for t in objects],
        [t.size for t in objects],
    )
    return truth, proposals.each()


def predict_in(model: Any, images: Any, boxes: Any) -> Instances | list[Instances]:
    """The objects in regions that are given: of one image, or of each in a list or batch."""
    batch = as_batch(images)
    several = isinstance(boxes, Sequence)
    lists = boxes if several else [boxes]
    if len(lists) != len(batch):
        raise UserError(f"{len(batch)} images but boxes of {len(lists)}", hint="give the regions of each image")
    found: list[Any] = []
    for image, own in zip(batch, lists, strict=True):
        looking = copy.copy(model)  # the same layers, other regions
        looking.source = Given(torch.as_tensor(own, dtype=torch.float32), (image.shape[-2], image.shape[-1]))
        found.append(predict_instances(looking, image))
    return found if several else found[0]


@extends(trunk)
def fast_rcnn(
    num_classes: int = 20,
    backbone: str = "vgg16",
    style: str = "fast_rcnn",
    levels: str = "conv5",
    pool: str = "pool",
    hidden: int = 4096,
    short_side: int = 600,
    long_side: int = 1000,
    proposals: str = "windows",
    ranks: Sequence[int] = (),
    **common: Any,
) -> FastRCNN:
    """Fast R-CNN on VGG16's last map at stride 16, with RoIPool; the other `levels` are as in `faster_rcnn.trunk`.

    `proposals` are "windows" or "segments" (`parts.regions`), where none are given. `ranks`, for instance (1024, 256),
    make the two fully connected layers products of thin ones; `truncate` does it to a trained model. The rest is as in
    `faster_rcnn.trunk`, as far as it is not about anchors.
    """
    if proposals not in SOURCES:
        raise unknown("proposals", proposals, SOURCES, "sources")
    base = trunk(
        num_classes,
        backbone,
        style=style,
        levels=levels,
        pool=pool,
        hidden=hidden,
        short_side=short_side,
        long_side=long_side,
        **common,
    )
    box = base.branch()
    box.sampler, box.pick = RandomSampler(64, 0.25), replace(box.pick, overlap=0.3)
    if ranks:
        _cut(box.head, ranks)
    return FastRCNN(base.backbone, base.fpn, SOURCES[proposals](), box, base.pixels, base.resize)


def truncate(model: FastRCNN, ranks: Sequence[int] = (1024, 256)) -> FastRCNN:
    """A copy whose two fully connected layers are products of thin ones, by SVD: most of the boxes' time (sec. 3.1)."""
    thin = copy.deepcopy(model)
    _cut(thin.box.head, ranks)
    thin.spec = {**model.spec, "options": {**model.spec["options"], "ranks": tuple(ranks)}}
    return thin


def _cut(head: nn.Module, ranks: Sequence[int]) -> None:
    if not isinstance(head, TwoFC) or not isinstance(head.fc1, nn.Linear) or len(ranks) != 2:
        raise UserError(f"ranks {tuple(ranks)} do not fit", hint="give two, for a head of two fully connected layers")
    head.fc1, head.fc2 = truncated(head.fc1, ranks[0]), truncated(head.fc2, ranks[1])
