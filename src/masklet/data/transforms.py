"""Augmentation of whole samples: the picture and everything known about it move together.

A transform is called with a sample and a `torch.Generator`, takes all its chance from the generator, and returns a new
sample. Pictures stay uint8 where they came as uint8; label maps, masks, ids and depths are never interpolated. What a
transform adds around the picture is `fill` there, `ignore` in label maps, and nothing in masks and depths. Objects with
nothing left in the picture are dropped; keypoints outside it are no longer labelled; in a mirror left and right
keypoints change places.

    train = Compose([RandomScale((0.5, 2.0)), RandomCrop(360), RandomFlip(), ColorJitter()])
    sample = train(sample, torch.Generator().manual_seed(0))
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

from masklet.ops.rle import RLE
from masklet.structures import Classes, Instances, Masks, Matte, Panoptic, Sample
from masklet.structures.errors import UserError

Transform = Callable[[Sample, torch.Generator], Sample]
Size = int | tuple[int, int]  # a square, or (height, width)
Fill = int | float | Sequence[float]  # one value for every channel, or one for each
MEAN_COLOR = (124, 116, 104)  # of ImageNet: padding that looks like nothing in particular
MASKS_AT_ONCE = 16  # dense masks in memory while they move


@dataclass(frozen=True)
class Move:
    """One change of geometry, told for pictures, for anything made of numbers that must not mix, and for points."""

    size: tuple[int, int]
    picture: Callable[[Tensor, Fill], Tensor]  # (c, h, w), fill
    labels: Callable[[Tensor, int], Tensor]  # (n, h, w), fill
    points: Callable[[Tensor], Tensor]  # (n, k, 2): x and y
    mirrored: bool = False

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
            depth=None if sample.depth is None else self.labels(sample.depth, 0),
        )

    def _objects(self, objects: Instances) -> Instances:
        """Objects after the change; those with nothing left in the picture are dropped."""
        height, width = self.size
        points, rotated = objects.keypoints, objects.rotated
        moved = replace(
            objects,
            boxes=self._boxes(objects.boxes),
            masks=None,
            size=self.size,
            keypoints=None if points is None else self._keypoints(points, objects.classes),
            rotated=None if rotated is None else self._rotated(rotated),
        )
        if objects.masks is None:
            return moved[(moved.boxes[:, 2:] > moved.boxes[:, :2]).all(1)]
        items: list[RLE] = []
        for start in range(0, len(objects), MASKS_AT_ONCE):
            part = objects.masks[start : start + MASKS_AT_ONCE].dense()
            items += Masks.from_dense(self.labels(part.to(torch.uint8), 0).bool()).items
        masks = Masks(height, width, tuple(items))
        return replace(moved, masks=masks, boxes=masks.boxes())[masks.areas() > 0]

    def _boxes(self, boxes: Tensor) -> Tensor:
        """The upright boxes around the moved corners, cut off at the picture's border."""
        height, width = self.size
        corners = self.points(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2))
        around = torch.cat([corners.amin(1), corners.amax(1)], 1)
        return torch.minimum(around.clamp(min=0), around.new_tensor([width, height, width, height]))

    def _keypoints(self, keypoints: Tensor, classes: Classes) -> Tensor:
        """Keypoints (x, y, visible); zeros for those that left the picture or were not labelled."""
        if self.mirrored:
            keypoints = keypoints[:, mirror_order(classes.keypoints, keypoints.shape[1])]
        places = self.points(keypoints[..., :2])
        limit = places.new_tensor([self.size[1], self.size[0]])
        inside = ((places >= 0) & (places <= limit)).all(-1) & (keypoints[..., 2] > 0)
        return torch.cat([places, keypoints[..., 2:]], -1) * inside[..., None]

    def _rotated(self, rotated: Tensor) -> Tensor:
        """Rotated boxes; where a stretch makes them slanted, both sides keep their direction's length (detectron2)."""
        cos, sin = torch.cos(rotated[:, 4] * math.pi / 180), torch.sin(rotated[:, 4] * math.pi / 180)
        centre = rotated[:, :2]
        along, across = torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)  # y points down
        new = self.points(torch.stack([centre, centre + along, centre + across], 1))
        along, across = new[:, 1] - new[:, 0], new[:, 2] - new[:, 0]
        degrees = torch.atan2(across[:, 0], across[:, 1]) * 180 / math.pi
        sides = torch.stack([along.norm(dim=1), across.norm(dim=1)], 1) * rotated[:, 2:4]
        return torch.cat([new[:, 0], sides, ((degrees + 90) % 180 - 90)[:, None]], 1)


def mirror_order(names: Sequence[str], count: int) -> list[int]:
    """Which keypoint of the picture each one of its mirror image is: `left_eye` is where `right_eye` was."""
    if len(names) != count:
        message = f"there are {count} keypoints and {len(names)} names for them, so left and right are not known"
        raise UserError(message, hint="name them in Classes.keypoints, or do not mirror")
    other = [re.sub("left|right", lambda side: "right" if side[0] == "left" else "left", name) for name in names]
    return [names.index(name) if name in names else i for i, name in enumerate(other)]


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

    factor = torch.tensor([size[1] / old[1], size[0] / old[0]])
    return Move(size, picture, labels, lambda points: points * factor)


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

    return Move(size, cut, cut, lambda points: points - torch.tensor([x, y]))


def flip(old: tuple[int, int], vertical: bool = False) -> Move:
    """Mirror left and right, or top and bottom."""
    axis = -2 if vertical else -1
    sign, shift = (torch.tensor([1, -1]), [0, old[0]]) if vertical else (torch.tensor([-1, 1]), [old[1], 0])

    def points(places: Tensor) -> Tensor:
        return places * sign + torch.tensor(shift)

    return Move(old, lambda image, _: image.flip(axis), lambda values, _: values.flip(axis), points, mirrored=True)


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

    def points(places: Tensor) -> Tensor:
        dx, dy = places[..., 0] - w / 2, places[..., 1] - h / 2
        return torch.stack([cos * dx + sin * dy + w / 2, cos * dy - sin * dx + h / 2], -1)

    return Move(old, picture, labels, points)


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
class LargeScaleJitter:
    """Shrink or enlarge a picture by a wide range, then cut or fill it up to `size` (Ghiasi et al., 2021).

    At scale 1 the picture just fits into `size`. Larger ones are cut at a random place, smaller ones lie in the top
    left corner. The paper's standard jitter is `scales=(0.8, 1.25)`.
    """

    size: Size = 1024
    scales: tuple[float, float] = (0.1, 2.0)
    ignore: int = 255
    fill: tuple[int, int, int] = MEAN_COLOR

    def __post_init__(self) -> None:
        _range("scales", *self.scales)

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        size = _pair(self.size)
        factor = draw(generator, *self.scales) * min(n / m for n, m in zip(size, sample.size, strict=True))
        scaled = (max(1, round(sample.size[0] * factor)), max(1, round(sample.size[1] * factor)))
        places = [int(draw(generator) * (max(n - m, 0) + 1)) for n, m in zip(scaled, size, strict=True)]
        return window(places[0], places[1], size, scaled)(resize(scaled, sample.size)(sample), self.fill, self.ignore)


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
