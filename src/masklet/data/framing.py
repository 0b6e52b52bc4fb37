"""What a training sees of a picture, and how often: windows, turns, whole pictures of several sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masklet.data.transforms import MEAN_COLOR, Fill, Move, Size, draw, flip, resize, window
from masklet.structures import Sample
from masklet.structures.errors import UserError

if TYPE_CHECKING:
    Samples = Sequence[Sample]
else:
    Samples = Sequence  # the bare class: run-time type checks would open a random sample to see what it is


@dataclass(frozen=True)
class RandomWindow:
    """A window of the picture brought to `size` (height, width): pixels grow by a factor between the two `scales`.

    As `RandomScale` and then `RandomCrop`, but what lies outside the window is never resized, which for a window of a
    large picture with hundreds of objects is most of the work. Places beyond the border are `fill`. With probability
    `aim` the window is laid over one of the objects, any of which may be chosen, and not just anywhere.
    """

    size: Size
    scales: tuple[float, float] = (0.5, 2.0)
    aim: float = 0.0
    ignore: int = 255
    fill: tuple[int, int, int] = MEAN_COLOR

    def __post_init__(self) -> None:
        if not 0 < self.scales[0] <= self.scales[1]:
            raise UserError(f"scales are {self.scales}", hint="give two positive numbers, the smaller one first")

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        factor = draw(generator, *self.scales)
        height, width = (max(1, round(side / factor)) for side in size)
        boxes = torch.zeros(0, 4) if sample.instances is None else sample.instances.boxes
        places = [draw(generator), draw(generator)]  # share of the way from the first to the last window
        if draw(generator) < self.aim and len(boxes):
            box = boxes[int(torch.randint(len(boxes), (), generator=generator))]
            middle = ((box[:2] + box[2:]) / 2).tolist()[::-1]
            for axis, (n, m) in enumerate(zip(sample.size, (height, width), strict=True)):
                if n > m:
                    places[axis] = min(max((middle[axis] - places[axis] * m) / (n - m), 0.0), 1.0)
        y, x = (round(place * (n - m)) for place, n, m in zip(places, sample.size, (height, width), strict=True))
        if sample.instances is not None:
            corner = torch.tensor([x, y])
            inside = (boxes[:, 2:] > corner) & (boxes[:, :2] < corner + torch.tensor([width, height]))
            sample = replace(sample, instances=sample.instances[inside.all(1)])
        cut = window(y, x, (height, width), sample.size)(sample, self.fill, self.ignore)
        return resize(size, cut.size)(cut)


@dataclass(frozen=True)
class RandomShortSide:
    """The whole picture, its shorter side one of `sides`, its longer one at most `long` (detectron2's training)."""

    sides: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    long: int = 1333

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        side = self.sides[int(torch.randint(len(self.sides), (), generator=generator))]
        factor = min(side / min(sample.size), self.long / max(sample.size))
        height, width = (max(1, round(n * factor)) for n in sample.size)
        return resize((height, width), sample.size)(sample)


@dataclass(frozen=True)
class RandomTurn:
    """One of the eight ways to lay a picture on the table: turned by 0, 90, 180 or 270 degrees, mirrored or not."""

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        way = int(torch.randint(8, (), generator=generator))
        if way >= 4:
            sample = flip(sample.size)(sample)
        return turn(way % 4, sample.size)(sample) if way % 4 else sample


def turn(quarters: int, old: tuple[int, int]) -> Move:
    """Turn counter-clockwise by a number of quarter turns; no pixel is interpolated."""
    quarters %= 4
    height, width = old
    middle = torch.tensor([width / 2, height / 2])
    new = old if quarters % 2 == 0 else (width, height)
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]
    spin = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float32)  # y points down

    def moved(values: Tensor, _: Fill) -> Tensor:
        return values.rot90(quarters, (-2, -1)).contiguous()

    def points(places: Tensor) -> Tensor:
        return (places - middle) @ spin + torch.tensor([new[1] / 2, new[0] / 2])

    return Move(new, moved, moved, points)


class Chosen(Samples):
    """Some samples of a data set, by number and in this order; a number may come more than once."""

    def __init__(self, source: Samples, order: Sequence[int]):
        self.source, self.order = source, tuple(order)
        self.classes = getattr(source, "classes", None)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: Any) -> Any:
        return self.source[self.order[index]]


def by_size(source: Samples, side: int) -> Chosen:
    """A data set in which a large picture comes as often as windows of `side` pixels fit along its side, rounded.

    So the objects of a picture of 1024 x 1024 are not seen a sixteenth as often as those of one of 256 x 256. Areas
    themselves would let a few large pictures fill the epoch. Every picture is read once to learn its size.
    """
    counts = [max(1, round(math.prod(source[i].size) ** 0.5 / side)) for i in range(len(source))]
    return Chosen(source, [i for i, count in enumerate(counts) for _ in range(count)])


def evenly(source: Samples, count: int) -> Chosen:
    """`count` samples from beginning to end, or all if there are fewer."""
    count = min(count, len(source))
    return Chosen(source, [i * len(source) // count for i in range(count)])
