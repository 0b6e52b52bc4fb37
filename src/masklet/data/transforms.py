"""Augmentation of whole samples: the picture and everything known about it move together.

A transform is called with a sample and a `torch.Generator`, takes all its chance from the generator, and returns a new
sample. Pictures stay uint8 where they came as uint8; label maps, masks and ids are never interpolated. What a transform
adds around the picture is `fill` there, `ignore` in label maps, and nothing in masks.

    train = Compose([RandomScale((0.5, 2.0)), RandomCrop(360), RandomFlip(), ColorJitter()])
    sample = train(sample, torch.Generator().manual_seed(0))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

from masklet.ops.rle import RLE
from masklet.structures import Instances, Masks, Matte, Panoptic, Sample
from masklet.structures.errors import UserError

Transform = Callable[[Sample, torch.Generator], Sample]
Size = int | tuple[int, int]  # a square, or (height, width)
Fill = int | float | Sequence[float]  # one value for every channel, or one for each
MEAN_COLOR = (124, 116, 104)  # of ImageNet: padding that looks like nothing in particular
MASKS_AT_ONCE = 16  # dense masks in memory while they move


@dataclass(frozen=True)
class Move:
    """One change of geometry, told for pictures, for anything made of numbers that must not mix, and for boxes."""

    size: tuple[int, int]
    picture: Callable[[Tensor, Fill], Tensor]  # (c, h, w), fill
    labels: Callable[[Tensor, int], Tensor]  # (n, h, w), fill
    boxes: Callable[[Tensor], Tensor]  # (n, 4)

    def __call__(self, sample: Sample, fill: Sequence[int] = MEAN_COLOR, ignore: int = 255) -> Sample:
        """The sample after the change."""
        scale = 1 if sample.image.dtype == torch.uint8 else 255
        matte, panoptic = sample.matte, sample.panoptic
        if matte is not None:
            front = None if matte.foreground is None else self.picture(matte.foreground, 0).clamp(0, 1)
            matte = Matte(self.picture(matte.alpha, 0).clamp(0, 1), front)
        if panoptic is not None:
            ids = self.labels(panoptic.ids[None], 0)[0]
            area = dict(zip(*(v.tolist() for v in ids.unique(return_counts=True)), strict=True))
            panoptic = Panoptic(ids, tuple(replace(s, area=area[s.id]) for s in panoptic.segments if s.id in area))
        return replace(
            sample,
            image=self.picture(sample.image, [v / scale for v in fill]),
            semantic=None if sample.semantic is None else self.labels(sample.semantic[None], ignore)[0],
            instances=None if sample.instances is None else self._objects(sample.instances),
            panoptic=panoptic,
            matte=matte,
        )

    def _objects(self, objects: Instances) -> Instances:
        """Objects after the change; those with nothing left in the picture are dropped."""
        height, width = self.size
        if objects.masks is None:
            limit = torch.tensor([width, height, width, height])
            boxes = torch.minimum(self.boxes(objects.boxes).clamp(min=0), limit)
            moved = replace(objects, boxes=boxes, size=self.size)
            return moved[(boxes[:, 2:] > boxes[:, :2]).all(1)]
        items: list[RLE] = []
        for start in range(0, len(objects), MASKS_AT_ONCE):
            part = objects.masks[start : start + MASKS_AT_ONCE].dense()
            items += Masks.from_dense(self.labels(part.to(torch.uint8), 0).bool()).items
        masks = Masks(height, width, tuple(items))
        moved = Instances.from_masks(masks, objects.labels, objects.classes, objects.scores)
        return moved[masks.areas() > 0]


def resize(size: tuple[int, int], old: tuple[int, int]) -> Move:
    """Stretch to `size`: bilinear with half-pixel centres, smoothed when shrinking; labels take the nearest pixel."""

    def picture(image: Tensor, fill: Fill) -> Tensor:
        if image.shape[1:] == size:
            return image
        return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]

    def labels(values: Tensor, fill: int) -> Tensor:
        if values.shape[1:] == size:
            return values
        rows, columns = (((np.arange(n) + 0.5) * m / n).astype(np.int64) for n, m in zip(size, old, strict=True))
        if size[0] > old[0]:  # whole rows are cheap to repeat, columns are not: those on the smaller picture
            return torch.from_numpy(values.numpy().take(columns, axis=2).take(rows, axis=1))
        return torch.from_numpy(values.numpy().take(rows, axis=1).take(columns, axis=2))

    factor = torch.tensor([size[1] / old[1], size[0] / old[0]] * 2)
    return Move(size, picture, labels, lambda boxes: boxes * factor)


def window(y: int, x: int, size: tuple[int, int], old: tuple[int, int]) -> Move:
    """Cut the window of `size` whose corner is at row `y`, column `x`; what lies outside the picture is filled."""
    (height, width), (h, w) = size, old
    rows, columns = slice(max(y, 0), max(min(y + height, h), 0)), slice(max(x, 0), max(min(x + width, w), 0))
    top, left = max(-y, 0), max(-x, 0)

    def cut(values: Tensor, fill: Fill) -> Tensor:
        part = values[:, rows, columns]
        if part.shape[1:] == size:
            return part.contiguous()
        color = torch.as_tensor(fill, dtype=torch.float32).round() if values.dtype == torch.uint8 else fill
        canvas = torch.as_tensor(color).to(values.dtype).reshape(-1, 1, 1).repeat(1, height, width)
        canvas = canvas.expand(len(values), -1, -1).clone() if len(canvas) != len(values) else canvas
        canvas[:, top : top + part.shape[1], left : left + part.shape[2]] = part
        return canvas

    return Move(size, cut, cut, lambda boxes: boxes - torch.tensor([x, y, x, y]))


def flip(old: tuple[int, int], vertical: bool = False) -> Move:
    """Mirror left and right, or top and bottom."""
    axis = -2 if vertical else -1

    def boxes(b: Tensor) -> Tensor:
        x0, y0, x1, y1 = b.unbind(1)
        if vertical:
            return torch.stack([x0, old[0] - y1, x1, old[0] - y0], 1)
        return torch.stack([old[1] - x1, y0, old[1] - x0, y1], 1)

    return Move(old, lambda image, _: image.flip(axis), lambda values, _: values.flip(axis), boxes)


def rotate(degrees: float, old: tuple[int, int]) -> Move:
    """Turn counter-clockwise about the centre; the size stays."""
    h, w = old
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    dy, dx = torch.meshgrid(torch.arange(h) + 0.5 - h / 2, torch.arange(w) + 0.5 - w / 2, indexing="ij")
    x, y = cos * dx - sin * dy + w / 2, sin * dx + cos * dy + h / 2  # where each new pixel looks in the old picture

    def picture(image: Tensor, fill: Fill) -> Tensor:
        grid = torch.stack([x * (2 / w) - 1, y * (2 / h) - 1], -1)[None]
        color = torch.as_tensor(fill, dtype=torch.float32).reshape(-1, 1, 1)
        turned = F.grid_sample(image[None].float() - color, grid, align_corners=False)[0] + color
        return turned.round_().clamp_(0, 255).to(torch.uint8) if image.dtype == torch.uint8 else turned

    def labels(values: Tensor, fill: int) -> Tensor:
        rows, columns = y.floor().long(), x.floor().long()
        outside = (rows < 0) | (rows >= h) | (columns < 0) | (columns >= w)
        turned = values[:, rows.clamp(0, h - 1), columns.clamp(0, w - 1)]
        return turned.masked_fill_(outside, fill)

    def boxes(b: Tensor) -> Tensor:
        bx, by = b[:, [0, 2, 2, 0]] - w / 2, b[:, [1, 1, 3, 3]] - h / 2
        corners = torch.stack([cos * bx + sin * by + w / 2, cos * by - sin * bx + h / 2], -1)
        return torch.cat([corners.amin(1), corners.amax(1)], 1)

    return Move(old, picture, labels, boxes)


def draw(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """A number between `low` and `high`, every one equally likely."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise UserError(f"size is {height}x{width}", hint="give at least 1x1 pixels")
    return height, width


def _range(name: str, low: float, high: float) -> None:
    if not 0 < low <= high:
        raise UserError(f"{name} is ({low}, {high})", hint="give two positive numbers, the smaller one first")


@dataclass(frozen=True)
class Compose:
    """One transform after the other."""

    transforms: Sequence[Transform]

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        for transform in self.transforms:
            sample = transform(sample, generator)
        return sample


@dataclass(frozen=True)
class RandomScale:
    """Stretch both sides by one factor between the two `scales`."""

    scales: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        _range("scales", *self.scales)

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        factor = draw(generator, *self.scales)
        height, width = (max(1, round(n * factor)) for n in sample.size)
        return resize((height, width), sample.size)(sample)


@dataclass(frozen=True)
class RandomCrop:
    """A window of `size` anywhere in the picture; smaller pictures are filled up at random sides.

    With `most < 1`, windows in which one class has more than that share of the labelled pixels are drawn again, up to
    ten times, so that rare classes are seen (MMSegmentation's `cat_max_ratio` is 0.75).
    """

    size: Size
    ignore: int = 255
    most: float = 1.0
    fill: tuple[int, int, int] = MEAN_COLOR

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        size = _pair(self.size)
        for _ in range(10):
            y, x = (
                int(torch.randint(min(0, n - m), max(0, n - m) + 1, (), generator=generator))
                for n, m in zip(sample.size, size, strict=True)
            )
            if self.most >= 1 or sample.semantic is None or self._varied(sample.semantic, y, x, size):
                break
        return window(y, x, size, sample.size)(sample, self.fill, self.ignore)

    def _varied(self, semantic: Tensor, y: int, x: int, size: tuple[int, int]) -> bool:
        part = semantic[max(y, 0) : y + size[0], max(x, 0) : x + size[1]]
        counts = torch.bincount(part.flatten(), minlength=256)
        counts[self.ignore] = 0
        return 0 < int(counts.max()) <= self.most * int(counts.sum())


@dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right (or, seen from the air, top and bottom) with probability `p`."""

    p: float = 0.5
    vertical: bool = False

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        return flip(sample.size, self.vertical)(sample) if draw(generator) < self.p else sample


@dataclass(frozen=True)
class RandomRotate:
    """Turn by an angle up to `degrees` either way, with probability `p`; the size stays, corners are filled."""

    degrees: float = 10.0  # as PSPNet was trained (Zhao et al., 2017)
    p: float = 0.5
    ignore: int = 255
    fill: tuple[int, int, int] = MEAN_COLOR

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        if draw(generator) >= self.p:
            return sample
        return rotate(draw(generator, -self.degrees, self.degrees), sample.size)(sample, self.fill, self.ignore)


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue with probability `p`.

    The first three are factors in [1 - v, 1 + v], hue a turn of at most `hue` of the colour circle. All four are one
    3x3 matrix on the colours (hue turns in the YIQ plane), so the cost is one multiplication.
    """

    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.03
    p: float = 1.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}", hint="give a number from 0 (no change) to 1")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"hue is {self.hue}", hint="give a number from 0 (no change) to 0.5 (any colour)")

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        if draw(generator) >= self.p:
            return sample
        bright, contrast, saturation = (
            1 + draw(generator, -v, v) for v in (self.brightness, self.contrast, self.saturation)
        )
        turn = draw(generator, -self.hue, self.hue)
        return replace(sample, image=adjust_color(sample.image, bright, contrast, saturation, turn))


LUMA = torch.tensor([0.299, 0.587, 0.114])
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


def adjust_color(
    image: Shaped[Tensor, "3 h w"], brightness: float, contrast: float, saturation: float, turn: float
) -> Shaped[Tensor, "3 h w"]:
    """The picture brighter, with more contrast about its mean grey, more colourful (factors), and its hues turned."""
    pixels = image.flatten(1).float()
    angle = -2 * math.pi * turn  # so that red turns towards yellow
    spin = torch.eye(3)
    spin[1:, 1:] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    hue = torch.linalg.solve(YIQ, spin @ YIQ)
    color = saturation * torch.eye(3) + (1 - saturation) * LUMA.expand(3, 3)
    matrix = contrast * brightness * (hue @ color)
    shift = (1 - contrast) * brightness * (pixels.mean(1) @ LUMA)  # greys keep their hue and saturation
    out = torch.addmm(shift.expand(3, 1), matrix, pixels).view(image.shape)
    return out.round_().clamp_(0, 255).to(torch.uint8) if image.dtype == torch.uint8 else out.clamp_(0, 1)


@dataclass(frozen=True)
class RandomBlur:
    """Gaussian blur with a standard deviation between the two `sigmas` pixels, with probability `p`."""

    sigmas: tuple[float, float] = (0.1, 2.0)
    p: float = 0.5

    def __post_init__(self) -> None:
        _range("sigmas", *self.sigmas)

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        if draw(generator) >= self.p:
            return sample
        return replace(sample, image=blur(sample.image, draw(generator, *self.sigmas)))


def blur(image: Shaped[Tensor, "3 h w"], sigma: float) -> Shaped[Tensor, "3 h w"]:
    """Gaussian blur out to two standard deviations; the border repeats."""
    reach = max(1, math.ceil(2 * sigma))
    weights = torch.exp(-(torch.arange(-reach, reach + 1).float() ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).view(1, 1, -1)
    out = F.pad(image[:, None].float(), [reach] * 4, mode="replicate")  # colours as a batch
    out = F.conv2d(F.conv2d(out, weights[..., None]), weights[:, :, None])[:, 0]
    return out.round_().clamp_(0, 255).to(torch.uint8) if image.dtype == torch.uint8 else out


@dataclass(frozen=True)
class Resize:
    """Stretch to (height, width), or keep the shape and make the `side` (short or long) `size` pixels."""

    size: Size
    side: Literal["short", "long"] = "short"

    def __call__(self, sample: Sample, generator: torch.Generator | None = None) -> Sample:
        if isinstance(self.size, int):
            factor = self.size / (min if self.side == "short" else max)(sample.size)
            height, width = (max(1, round(n * factor)) for n in sample.size)
        else:
            height, width = _pair(self.size)
        return resize((height, width), sample.size)(sample)


@dataclass(frozen=True)
class PadTo:
    """Fill up at the right and below to at least `size`, and to a multiple of `multiple`."""

    size: Size = 1
    multiple: int = 1
    ignore: int = 255
    fill: tuple[int, int, int] = MEAN_COLOR

    def __call__(self, sample: Sample, generator: torch.Generator | None = None) -> Sample:
        height, width = (
            math.ceil(max(n, m) / self.multiple) * self.multiple
            for n, m in zip(sample.size, _pair(self.size), strict=True)
        )
        return window(0, 0, (height, width), sample.size)(sample, self.fill, self.ignore)
