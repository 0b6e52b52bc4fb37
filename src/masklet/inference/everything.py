"""All objects of a photograph without a word said: a grid of clicks, and the masks that hold (SAM's mask generator).

Each click of a grid is asked for its three meanings. Scores come first: only clicks with a meaning that is predicted
well are enlarged, only masks whose border is sharp become run lengths. What was found twice is found once, in a picture
and again between enlarged parts of it (`crops`). Definitions, order and defaults are those of SAM's own generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from masklet.data.images import as_batch
from masklet.inference.click import promptable
from masklet.inference.image import Predictor, Settings
from masklet.models.base import evaluating
from masklet.models.prompting import Embedding, Queries, enlarged
from masklet.ops import rle
from masklet.ops.components import components
from masklet.ops.nms import nms
from masklet.ops.rle import RLE
from masklet.parts.mask_decoder import Decoded, stability
from masklet.structures import Classes, Instances, Masks
from masklet.structures.errors import UserError

__all__ = ["SAM2", "SMALL", "Everything", "Found", "crop_boxes", "everything", "tidied", "usual"]

NEAR = 20.0  # pixels: a mask that ends so near the edge of a crop goes on outside it
PIXELS = 2**22  # of logits that are enlarged at a time


@dataclass(frozen=True)
class Everything:
    """How thoroughly objects are looked for and which are kept; the defaults are SAM's.

    `points` clicks a side, `batch` of them decoded together (few suit processors, many accelerators). Kept are masks
    with a predicted IoU above `score` and a `stability` (IoU of the masks at logits `offset` above and below 0) of at
    least so much; of those whose boxes overlap by more than `overlap` the one with the best score. `crops` layers look
    at 4, 16, ... enlarged parts of the picture as well, which overlap by the share `crop_overlap` of its shorter side;
    each layer has `crop_points` times fewer clicks a side; between crops `crop_nms` is the most that boxes may overlap.
    `smallest`: islands and holes of fewer pixels are removed (0: nothing is).

    With `most` masks are compared as coarse as they are predicted, and only so many of the best ones of a crop are
    enlarged to the picture's size, which then takes a bounded time however many clicks hit something (None: all that
    pass are, as SAM's generator has it).
    """

    points: int = 32
    score: float = 0.88
    stability: float = 0.95
    offset: float = 1.0
    overlap: float = 0.7
    crops: int = 0
    crop_overlap: float = 512 / 1500
    crop_points: int = 1
    crop_nms: float = 0.7
    smallest: int = 0
    batch: int = 4
    most: int | None = None

    def __post_init__(self) -> None:
        least_of = {"points": 1, "batch": 1, "crop_points": 1, "crops": 0, "smallest": 0}
        for name, least in (least_of if self.most is None else {**least_of, "most": 1}).items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"{name} is {value!r}", hint=f"give a whole number from {least} up")
        for name in ("stability", "overlap", "crop_nms", "crop_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}", hint="give a number from 0 to 1")


SAM2 = Everything(score=0.8)  # what SAM 2's own generator has
# For small models of ours: borders are less sure, and a photograph takes seconds on a processor.
SMALL = Everything(points=24, score=0.7, stability=0.7, overlap=0.5, smallest=64, batch=16, most=96)


def usual(model: Any) -> Everything:
    """The settings that suit a promptable model: those of its authors, or of a small one that is ours."""
    system = str(model.spec["model"])
    return SMALL if system == "sam2" else SAM2 if system.startswith("sam2") else Everything()


@dataclass(frozen=True, eq=False)
class Found:
    """The objects of a picture (scores are predicted IoUs), and how each was found: click, crop and stability."""

    instances: Instances
    stability: Float[Tensor, " n"]
    points: Float[Tensor, "n 2"]
    crops: Float[Tensor, "n 4"]

    def __len__(self) -> int:
        return len(self.instances)


@dataclass(frozen=True, eq=False)
class Batch:
    """Masks of one crop that passed, before what was found twice is removed; boxes end in their last pixel."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    stability: Float[Tensor, " n"]
    points: Float[Tensor, "n 2"]
    crops: Float[Tensor, "n 4"]
    items: tuple[RLE, ...]

    def __getitem__(self, keep: Int64[Tensor, " k"]) -> Batch:
        tensors = (self.boxes, self.scores, self.stability, self.points, self.crops)
        boxes, scores, steady, points, crops = (part[keep] for part in tensors)
        return Batch(boxes, scores, steady, points, crops, tuple(self.items[i] for i in keep.tolist()))

    @classmethod
    def join(cls, parts: Sequence[Batch]) -> Batch:
        return cls(
            torch.cat([torch.zeros(0, 4), *(part.boxes for part in parts)]),
            torch.cat([torch.zeros(0), *(part.scores for part in parts)]),
            torch.cat([torch.zeros(0), *(part.stability for part in parts)]),
            torch.cat([torch.zeros(0, 2), *(part.points for part in parts)]),
            torch.cat([torch.zeros(0, 4), *(part.crops for part in parts)]),
            tuple(item for part in parts for item in part.items),
        )


@dataclass(frozen=True, eq=False)
class Candidates:
    """Masks of one image that are predicted well, as coarse as they are predicted, and the clicks that they answer."""

    logits: Float[Tensor, "n h4 w4"]
    scores: Float[Tensor, " n"]
    points: Float[Tensor, "n 2"]

    def __getitem__(self, keep: Tensor) -> Candidates:
        own = keep.cpu()
        return Candidates(self.logits[keep], self.scores[own], self.points[own])

    @classmethod
    def join(cls, parts: Sequence[Candidates]) -> Candidates:
        columns = ("logits", "scores", "points")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in columns))


def everything(
    model: Any, images: Any, settings: Everything | None = None, *, device: str = "auto", **options: Any
) -> Found | list[Found]:
    """All objects of one picture, or of each in a list or batch; `options` change the `usual` settings.

    Pictures of one size are looked at together. `model` is a promptable model or what `masklet.load` takes.
    """
    if settings is not None and options:
        raise UserError("settings and single options were given", hint="put the options into Everything(...)")
    model = Predictor(model, Settings(device=device)).model
    promptable(model)
    chosen = replace(usual(model), **options) if settings is None else settings
    several = isinstance(images, list | tuple) or getattr(images, "ndim", 3) == 4
    with evaluating(model), torch.inference_mode():
        pixels = list(as_batch(images))
        done: dict[int, Found] = {}
        sizes = dict.fromkeys(tuple(image.shape[1:]) for image in pixels)
        for size in sizes:
            same = [i for i, image in enumerate(pixels) if tuple(image.shape[1:]) == size]
            found = _of_one_size(model, torch.stack([pixels[i] for i in same]), chosen)
            done |= dict(zip(same, found, strict=True))
    return [done[i] for i in range(len(pixels))] if several else done[0]


def _of_one_size(model: Any, images: Float[Tensor, "b 3 h w"], chosen: Everything) -> list[Found]:
    size = images.shape[2], images.shape[3]
    kept: list[list[Batch]] = [[] for _ in images]
    for layer, crops in enumerate(crop_boxes(size, chosen.crops, chosen.crop_overlap)):
        cells = grid(max(1, int(chosen.points / chosen.crop_points**layer)))
        for crop in crops:
            for found, own in zip(kept, _of_crop(model, images, crop, cells, chosen), strict=True):
                found.append(own)
    return [_finished(Batch.join(parts), size, model.classes, chosen) for parts in kept]


def crop_boxes(size: tuple[int, int], layers: int, overlap: float) -> Iterator[list[tuple[int, int, int, int]]]:
    """The whole picture, then for each layer 4, 16, ... boxes x0 y0 x1 y1 that overlap."""
    height, width = size
    yield [(0, 0, width, height)]
    for layer in range(layers):
        count = 2 ** (layer + 1)
        shared = int(overlap * min(size) * 2 / count)
        wide, high = (math.ceil((shared * (count - 1) + side) / count) for side in (width, height))
        xs, ys = ([(side - shared) * i for i in range(count)] for side in (wide, high))
        yield [(x, y, min(x + wide, width), min(y + high, height)) for x in xs for y in ys]


def grid(count: int) -> Float[Tensor, "n 2"]:
    """x y of the middles of count x count cells, 0..1, row by row."""
    line = (torch.arange(count) + 0.5) / count
    return torch.stack([line.expand(count, -1), line[:, None].expand(-1, count)], -1).flatten(0, 1)


def _of_crop(
    model: Any,
    images: Float[Tensor, "b 3 h w"],
    crop: tuple[int, int, int, int],
    cells: Float[Tensor, "n 2"],
    chosen: Everything,
) -> list[Batch]:
    """What was found in one part of each image, once each."""
    x0, y0, x1, y1 = crop
    device = next(model.parameters()).device
    embedding = model.embed(images[:, :, y0:y1, x0:x1].to(device))
    size = images.shape[2], images.shape[3]
    points = cells * torch.tensor([float(x1 - x0), float(y1 - y0)])
    found: list[list[Batch]] = [[] for _ in images]
    several: list[list[Candidates]] = [[] for _ in images]
    for part in points.split(max(1, chosen.batch // len(images))):
        for image, candidates in _of_points(model, embedding, part, chosen):
            if chosen.most is None:
                found[image].append(_passed(candidates, embedding[image : image + 1], crop, size, chosen))
            else:
                several[image].append(candidates[stability(candidates.logits, chosen.offset) >= chosen.stability])
    for image, parts in enumerate(several):
        if parts:
            best = _best(Candidates.join(parts), chosen)
            found[image].append(_passed(best, embedding[image : image + 1], crop, size, chosen))
    joined = [Batch.join(parts) for parts in found]
    return [own[nms(own.boxes, own.scores, chosen.overlap)] for own in joined]


def _best(found: Candidates, chosen: Everything) -> Candidates:
    """The best `most` candidates of those whose boxes are not nearly alike."""
    boxes = ends(found.logits > 0).cpu()
    boxes[:, 2:] += 1  # a coarse pixel is many fine ones: it has a width
    keep = nms(boxes.float(), found.scores, chosen.overlap)[: chosen.most]
    return found[keep.to(found.logits.device)]


def _of_points(
    model: Any,
    embedding: Embedding,
    points: Float[Tensor, "p 2"],
    chosen: Everything,
) -> Iterator[tuple[int, Candidates]]:
    """The masks that some clicks may mean and that are predicted well, image by image."""
    device, b, p = embedding.features.device, len(embedding), len(points)
    where = (points.to(device) * points.new_tensor(embedding.scale).to(device))[None, :, None].expand(b, -1, -1, -1)
    labels = torch.ones(b * p, 1, dtype=torch.int64, device=device)
    decoded: Decoded = model.answer(embedding, Queries(where.flatten(0, 1), labels))
    first = min(1, decoded.ious.shape[1] - 1)  # the masks for ambiguous prompts
    good = decoded.ious[:, first:] > chosen.score
    for image in range(b):
        rows = good[image * p : (image + 1) * p].any(1).nonzero()[:, 0]
        if not len(rows):
            continue
        own = embedding[image : image + 1]
        logits = model.masks(own, decoded[image * p + rows], slice(first, None))
        flags = good[image * p + rows]
        scores = decoded.ious[image * p + rows, first:][flags].float().cpu()
        asked = points[rows.cpu()].repeat_interleave(flags.sum(1).cpu(), 0)
        yield image, Candidates(logits[flags], scores, asked)


def _passed(
    candidates: Candidates,
    embedding: Embedding,
    crop: tuple[int, int, int, int],
    size: tuple[int, int],
    chosen: Everything,
) -> Batch:
    """Masks with a sharp border that do not end at the edge of the crop, as run lengths in the whole picture."""
    (x0, y0, x1, y1), (height, width) = crop, size
    scores, points = candidates.scores, candidates.points
    parts: list[Batch] = []
    together = max(1, PIXELS // max(embedding.size[0] * embedding.size[1], math.prod(embedding.input_size)))
    start = 0
    for few in candidates.logits.split(together):
        full = enlarged(few[:, None], embedding)[:, 0]
        steady, masks = stability(full, chosen.offset), full > 0
        boxes = ends(masks).cpu() + torch.tensor([x0, y0, x0, y0])
        edges, outer = torch.tensor([x0, y0, x1, y1]), torch.tensor([0, 0, width, height])
        cut = (((boxes - edges).abs() <= NEAR) & ((boxes - outer).abs() > NEAR)).any(1)
        keep = ((steady >= chosen.stability) & masks.flatten(1).any(1)).cpu() & ~cut
        which = keep.nonzero()[:, 0]
        inside = masks[which.to(masks.device)].cpu()
        pieces, corners = [], []
        for mask, box in zip(inside, (boxes[which] - torch.tensor([x0, y0, x0, y0])).long().tolist(), strict=True):
            pieces.append(mask[box[1] : box[3] + 1, box[0] : box[2] + 1])
            corners.append((x0 + box[0], y0 + box[1]))
        items = tuple(rle.from_crops(pieces, corners, height, width))
        own, crops = which + start, torch.tensor(crop).float().expand(len(which), -1)
        shifted = points[own] + torch.tensor([float(x0), float(y0)])
        parts.append(Batch(boxes[which].float(), scores[own], steady.cpu()[which].float(), shifted, crops, items))
        start += len(few)
    return Batch.join(parts)


def ends(masks: Bool[Tensor, "n h w"]) -> Int64[Tensor, "n 4"]:
    """First and last column and row of each mask as x0 y0 x1 y1, zeros where it is empty."""
    out = []
    for lines in (masks.any(1), masks.any(2)):
        some = lines.any(1)
        last = lines.shape[1] - 1 - lines.flip(1).int().argmax(1)
        out.append((torch.where(some, lines.int().argmax(1), 0), torch.where(some, last, 0)))
    (x0, x1), (y0, y1) = out
    return torch.stack([x0, y0, x1, y1], 1)


def _finished(found: Batch, size: tuple[int, int], classes: Classes, chosen: Everything) -> Found:
    """What was found in several crops is found once; small islands and holes go."""
    if chosen.crops:
        sides = found.crops[:, 2:] - found.crops[:, :2]
        found = found[nms(found.boxes, 1 / sides.prod(1), chosen.crop_nms)]  # the smaller crop saw it larger
    if chosen.smallest and len(found.items):
        found = _cleaned(found, chosen)
    masks = Masks(*size, found.items)
    labels = torch.zeros(len(found.items), dtype=torch.int64)
    instances = Instances.from_masks(masks, labels, classes, found.scores)
    return Found(instances, found.stability, found.points, found.crops)


def _cleaned(found: Batch, chosen: Everything) -> Batch:
    """Without small islands and holes; where that makes masks alike, those that were clean before stay."""
    masks = [tidied(rle.decode(item), chosen.smallest) for item in found.items]
    same = torch.tensor([not changed for _, changed in masks])
    items = tuple(
        rle.encode(mask) if changed else item for (mask, changed), item in zip(masks, found.items, strict=True)
    )
    boxes = torch.from_numpy(rle.boxes(items)).float() - torch.tensor([0.0, 0.0, 1.0, 1.0])
    clean = Batch(boxes, found.scores, found.stability, found.points, found.crops, items)
    return clean[nms(boxes, same.float(), max(chosen.overlap, chosen.crop_nms))]


def tidied(mask: Bool[np.ndarray, "h w"], smallest: int) -> tuple[Bool[np.ndarray, "h w"], bool]:
    """The mask without holes, then without islands, of fewer than `smallest` pixels; whether anything changed."""
    clean = without_islands(without_holes(mask, smallest), smallest)
    return clean, not np.array_equal(clean, mask)


def without_holes(mask: Bool[np.ndarray, "h w"], smallest: int) -> Bool[np.ndarray, "h w"]:
    """With holes of fewer than `smallest` pixels filled; pixels that touch at a corner are connected."""
    parts, sizes = components(~mask)
    small = sizes < smallest
    small[0] = False
    return mask | small[parts]


def without_islands(mask: Bool[np.ndarray, "h w"], smallest: int) -> Bool[np.ndarray, "h w"]:
    """Without parts of fewer than `smallest` pixels; where all are so small, the largest stays."""
    parts, sizes = components(mask)
    large = sizes >= smallest
    large[0] = False
    if len(sizes) > 1 and not large.any():
        large[1 + int(sizes[1:].argmax())] = True
    return large[parts]
