"""Made pictures with exact truth, drawn when asked for: sample `i` of a split depends on (name, seed, split, i) only.

synthetic:shapes3   discs, squares and triangles that cover each other: 1 to 6, later ones on top
synthetic:rods      6 to 12 thin slanted rods whose upright boxes overlap by more than half
synthetic:stickmen  1 to 3 people with COCO's 17 joints, who cover each other and may reach out of the picture
synthetic:rings     rings and wobbly blobs: boundaries are everything
synthetic:stripes   lines one pixel wide, which a coarse stride cannot see
synthetic:cells     touching cells under a microscope
synthetic:flood     land and water with a sinusoidal shore, seen from the air
synthetic:drinks    soda, bottle and juice on a table
synthetic:scenes    bands of sky, grass and road with balls and boxes in front
synthetic:rooms     floor, walls and boxes with a depth image; colours do not say what is what

`synthetic:drinks@96x128` draws them 96 pixels high and 128 wide.
"""

from __future__ import annotations

import difflib
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import overload

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64

from masklet.data.categories import PERSON
from masklet.data.pairs import Samples
from masklet.data.rgbd import encoded
from masklet.ops.hha import kinect
from masklet.structures import Classes, Instances, Masks, Sample
from masklet.structures.errors import UserError

COUNTS = MappingProxyType({"train": 200, "val": 50, "test": 50})  # samples of a split, where not told otherwise
Mask = Bool[np.ndarray, "h w"]
Color = tuple[float, float, float] | np.ndarray


@dataclass
class Canvas:
    """A picture in the making, with the class of every pixel and the objects in it, modal: covered parts are gone."""

    rng: np.random.Generator
    size: tuple[int, int]
    image: np.ndarray = field(init=False)
    labels: np.ndarray = field(init=False)
    objects: list[tuple[np.ndarray, int]] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)  # x y of every keypoint, for each object that has some
    depth: np.ndarray | None = None  # metres

    def __post_init__(self) -> None:
        self.image = np.zeros((*self.size, 3), np.float32)
        self.labels = np.zeros(self.size, np.uint8)
        rows, columns = np.indices(self.size, np.float32)
        self.y, self.x = rows + 0.5, columns + 0.5

    @property
    def side(self) -> int:
        return min(self.size)

    def noise(self, cells: int, strength: float) -> Float32[np.ndarray, "h w"]:
        """Smooth random hills of about height/cells pixels."""
        coarse = torch.from_numpy(self.rng.normal(0, strength, (1, 1, cells + 2, cells + 2)).astype(np.float32))
        return torch.nn.functional.interpolate(coarse, self.size, mode="bicubic")[0, 0].numpy()

    def paint(self, mask: np.ndarray, color: Color, label: int, thing: bool = False, rough: float = 0.05) -> None:
        """Fill a region with an uneven colour; an object covers what was there."""
        shade = self.noise(4, rough) + self.rng.normal(0, rough / 2, self.size).astype(np.float32)
        self.image[mask] = (np.asarray(color, np.float32) + shade[..., None])[mask]
        self.labels[mask] = label
        if thing:
            self.objects = [(other & ~mask, kind) for other, kind in self.objects]
            self.objects.append((mask.copy(), label))

    def color(self, away: Color = (0.5, 0.5, 0.5), apart: float = 0.35) -> np.ndarray:
        """A random colour that can be told from `away`."""
        while True:
            color = self.rng.uniform(0.05, 0.95, 3)
            if np.abs(color - np.asarray(away)).max() > apart:
                return color

    def place(self, margin: float) -> tuple[float, float]:
        """A random point (y, x), `margin` pixels inside where the picture is large enough."""
        height, width = self.size
        (top, left) = (min(margin, n / 2) for n in self.size)
        return self.rng.uniform(top, height - top), self.rng.uniform(left, width - left)

    def disc(self, cy: float, cx: float, radius: float) -> Mask:
        return (self.y - cy) ** 2 + (self.x - cx) ** 2 <= radius**2

    def ellipse(self, cy: float, cx: float, a: float, b: float, angle: float) -> Mask:
        u, v = self.turned(cy, cx, angle)
        return (u / a) ** 2 + (v / b) ** 2 <= 1

    def box(self, cy: float, cx: float, half_u: float, half_v: float, angle: float = 0.0) -> Mask:
        """A rectangle: half its sides along and across the direction `angle`."""
        u, v = self.turned(cy, cx, angle)
        return (np.abs(u) <= half_u) & (np.abs(v) <= half_v)

    def triangle(self, cy: float, cx: float, radius: float, angle: float) -> Mask:
        """Three half planes at equal angles."""
        u, v = self.y - cy, self.x - cx
        sides = (angle + k * 2 * math.pi / 3 for k in range(3))
        return np.logical_and.reduce([math.sin(a) * u + math.cos(a) * v <= radius / 2 for a in sides])

    def blob(self, cy: float, cx: float, radius: float) -> Mask:
        """A closed curve whose radius swings."""
        angle = np.arctan2(self.y - cy, self.x - cx)
        swing = sum(self.rng.uniform(0, 0.25) * np.sin(k * angle + self.rng.uniform(0, 2 * math.pi)) for k in (2, 3, 5))
        return np.hypot(self.y - cy, self.x - cx) <= radius * (1 + swing)

    def turned(self, cy: float, cx: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates along and across a direction, from a centre."""
        u, v = self.x - cx, self.y - cy
        cos, sin = math.cos(angle), math.sin(angle)
        return cos * u + sin * v, cos * v - sin * u


def shapes3(c: Canvas) -> None:
    ground = c.color()
    c.paint(np.ones(c.size, bool), ground, 0)
    for _ in range(c.rng.integers(1, 7)):
        kind, radius = int(c.rng.integers(1, 4)), c.side * c.rng.uniform(0.1, 0.22)
        (cy, cx), angle = c.place(radius), c.rng.uniform(0, 2 * math.pi)
        shape = (
            c.disc(cy, cx, radius),
            c.box(cy, cx, radius * 0.85, radius * 0.85, angle),
            c.triangle(cy, cx, radius * 1.2, angle),
        )[kind - 1]
        c.paint(shape, c.color(ground), kind, thing=True)


def rods(c: Canvas) -> None:
    c.paint(np.ones(c.size, bool), c.rng.uniform(0.05, 0.25, 3), 0)
    count, color = int(c.rng.integers(6, 13)), c.rng.uniform(0.55, 0.9, 3)
    half, thick = c.side * 0.36, max(0.8, c.side * 0.016)
    angle = math.pi / 4 + c.rng.uniform(-0.25, 0.25) + (math.pi / 2 if c.rng.random() < 0.5 else 0)
    step = 2.6 * thick  # near enough that the boxes overlap by more than half, far enough to be told apart
    for k in range(count):
        off = (k - (count - 1) / 2) * step
        cy, cx = c.size[0] / 2 + off * math.cos(angle), c.size[1] / 2 - off * math.sin(angle)
        along = c.rng.uniform(-0.03, 0.03) * c.side
        rod = c.box(cy + along * math.sin(angle), cx + along * math.cos(angle), half, thick, angle)
        c.paint(rod, color + c.rng.uniform(-0.1, 0.1, 3), 1, thing=True)


def stickmen(c: Canvas) -> None:
    """People who look at the viewer: their left is on the right. Sleeves and trousers end at elbows and knees."""
    c.paint(np.ones(c.size, bool), (ground := c.color()), 0)
    count = int(c.rng.integers(1, 4))
    for spot in c.rng.permutation(count):
        head = c.side * c.rng.uniform(0.1, 0.125)  # a person is eight heads high
        top = c.rng.uniform(-0.05, 0.15) * c.side
        cx = c.size[1] * (spot + 0.5) / count + c.rng.uniform(-0.05, 0.05) * c.side
        joints = _joints(c.rng, top, cx, head)
        shirt, trousers, skin = c.color(ground), c.color(ground), c.color(ground)
        parts = [
            *((_limb(c, joints[i], joints[j], 0.42 * head), skin) for i, j in ((7, 9), (8, 10), (13, 15), (14, 16))),
            *((_limb(c, joints[i], joints[j], 0.5 * head), trousers) for i, j in ((11, 13), (12, 14), (11, 12))),
            (_limb(c, joints[5:7].mean(0), joints[11:13].mean(0), 1.1 * head), shirt),
            *((_limb(c, joints[i], joints[j], 0.42 * head), shirt) for i, j in ((5, 7), (6, 8), (5, 6))),
            (c.ellipse(joints[0, 1], joints[0, 0], 0.5 * head, 0.6 * head, 0.0), skin),
        ]
        c.paint(np.logical_or.reduce([mask for mask, _ in parts]), skin, 1, thing=True)
        for mask, color in parts:
            c.paint(mask, color, 1, rough=0.03)
        c.image[_limb(c, joints[1], joints[2], 0.15 * head)] = np.clip(skin - 0.4, 0, 1)  # eyes
        c.points.append(joints)


def _limb(c: Canvas, a: np.ndarray, b: np.ndarray, thick: float) -> Mask:
    """What is nearer to the line from `a` to `b` than half of `thick`."""
    along = b - a
    share = (((c.x - a[0]) * along[0] + (c.y - a[1]) * along[1]) / max(float(along @ along), 1e-6)).clip(0, 1)
    return np.hypot(c.x - a[0] - share * along[0], c.y - a[1] - share * along[1]) <= thick / 2


def _joints(rng: np.random.Generator, top: float, cx: float, head: float) -> Float64[np.ndarray, "17 2"]:
    """x, y of COCO's joints of a person; every other one is the left one, on the right of the picture."""
    out = np.zeros((17, 2))
    out[0] = cx, top + 0.6 * head
    sides = ((1, 1.0), (2, -1.0))
    for first, side in sides:
        out[first] = cx + side * 0.2 * head, top + 0.45 * head
        out[first + 2] = cx + side * 0.45 * head, top + 0.55 * head
        shoulder = out[first + 4] = np.array([cx + side * 0.75 * head, top + 1.6 * head])
        hip = out[first + 10] = np.array([cx + side * 0.45 * head, top + 4.1 * head])
        for start, joint, swing, length in (
            (shoulder, first + 6, (0.1, 1.6), 1.4),
            (hip, first + 12, (-0.1, 0.6), 1.8),
        ):
            angle = rng.uniform(*swing)
            out[joint] = start + length * head * np.array([side * math.sin(angle), math.cos(angle)])
            angle += rng.uniform(-0.1, 0.9) if start is shoulder else rng.uniform(-0.4, 0.1)
            out[joint + 2] = out[joint] + 0.9 * length * head * np.array([side * math.sin(angle), math.cos(angle)])
    return out


def rings(c: Canvas) -> None:
    c.paint(np.ones(c.size, bool), (ground := c.color()), 0)
    for _ in range(c.rng.integers(2, 5)):
        radius = c.side * c.rng.uniform(0.12, 0.24)
        cy, cx = c.place(radius)
        if c.rng.random() < 0.5:
            hole = c.disc(cy, cx, radius * c.rng.uniform(0.4, 0.75))
            c.paint(c.disc(cy, cx, radius) & ~hole, c.color(ground), 1, thing=True)
        else:
            c.paint(c.blob(cy, cx, radius), c.color(ground), 2, thing=True)


def stripes(c: Canvas) -> None:
    c.paint(np.ones(c.size, bool), c.rng.uniform(0.1, 0.4, 3), 0)
    height, width = c.size
    lines = np.zeros(c.size, bool)
    upright = c.rng.random() < 0.5
    position = int(c.rng.integers(0, 3))
    while position < (width if upright else height):
        lines[(slice(None), position) if upright else (position, slice(None))] = True
        position += int(c.rng.integers(3, 9))
    c.paint(lines, c.rng.uniform(0.6, 0.95, 3), 1)


def cells(c: Canvas) -> None:
    c.paint(np.ones(c.size, bool), np.full(3, c.rng.uniform(0.1, 0.25)), 0, rough=0.03)
    tint, radius = c.rng.uniform(0.45, 0.85) * np.array([1, c.rng.uniform(0.8, 1), c.rng.uniform(0.8, 1)]), c.side * 0.1
    places = [c.place(radius)]
    for _ in range(int(c.rng.integers(6, 15))):
        y, x = places[int(c.rng.integers(len(places)))]  # the next cell touches an earlier one
        angle, step = c.rng.uniform(0, 2 * math.pi), radius * c.rng.uniform(1.5, 1.9)
        y, x = y + step * math.sin(angle), x + step * math.cos(angle)
        free = all(math.hypot(y - v, x - u) > radius * 1.3 for v, u in places)
        if free and 0 < y < c.size[0] and 0 < x < c.size[1]:
            places.append((y, x))
    for y, x in places:
        a, b = radius * c.rng.uniform(0.8, 1.1, 2)
        cell = c.ellipse(y, x, a, b, c.rng.uniform(0, math.pi))
        c.paint(cell, tint * c.rng.uniform(0.85, 1.1), 1, thing=True, rough=0.03)
        c.image[cell] *= (1.1 - 0.35 * (np.hypot(c.y - y, c.x - x) / radius) ** 2)[cell, None]  # darker at the rim


def flood(c: Canvas) -> None:
    land = np.array([0.35, 0.42, 0.22]) + c.rng.uniform(-0.1, 0.1, 3)
    c.paint(np.ones(c.size, bool), land, 0, rough=0.12)
    u, v = c.turned(c.size[0] / 2, c.size[1] / 2, c.rng.uniform(0, 2 * math.pi))
    shore = sum(
        c.side * c.rng.uniform(0.02, 0.12) * np.sin(u / c.side * c.rng.uniform(3, 14) + c.rng.uniform(0, 6.3))
        for _ in range(3)
    )
    water = v < shore + c.side * c.rng.uniform(-0.25, 0.25)
    c.paint(water, np.array([0.45, 0.42, 0.36]) + c.rng.uniform(-0.08, 0.12, 3), 1, rough=0.015)
    for _ in range(c.rng.integers(2, 7)):  # houses stay dry, wherever they stand
        cy, cx = c.place(0.0)
        sides = c.side * c.rng.uniform(0.02, 0.06, 2)
        roof = c.color(land, 0.2)
        c.paint(c.box(cy, cx, sides[0], sides[1], c.rng.uniform(0, math.pi)), roof, 0)


def drinks(c: Canvas) -> None:
    c.paint(np.ones(c.size, bool), c.rng.uniform(0.5, 0.95, 3), 0, rough=0.02)
    c.paint(c.y > c.size[0] * c.rng.uniform(0.45, 0.7), c.rng.uniform(0.25, 0.6, 3), 0, rough=0.04)
    height, width = c.size
    spots = c.rng.permutation(4)[: c.rng.integers(1, 4)]
    for spot in spots:
        kind = int(c.rng.integers(1, 4))
        tall = height * c.rng.uniform(0.18, 0.28)
        wide = min(tall * c.rng.uniform(0.38, 0.5), width * 0.115)
        cy, cx = height * c.rng.uniform(0.5, 0.68), width * (spot + 0.5) / 4
        body = c.box(cy, cx, wide, tall)
        if kind == 1:  # a can: straight, silver rims
            c.paint(body, (0.75, 0.1, 0.12), 1, thing=True)
            c.image[body & (np.abs(c.y - cy) > tall * 0.9)] = 0.8
        elif kind == 2:  # a bottle: shoulders and a neck
            neck = c.box(cy - tall, cx, wide * 0.35, tall * 0.35)
            body = c.box(cy + tall * 0.15, cx, wide, tall * 0.85) | c.ellipse(
                cy - tall * 0.7, cx, wide, tall * 0.3, 0.0
            )
            c.paint(body | neck, (0.1, 0.35, 0.2), 2, thing=True)
            label = c.box(cy + tall * 0.2, cx, wide, tall * 0.25)
            c.image[label & (body | neck)] = (0.9, 0.85, 0.7)
        else:  # a carton: slanted roof
            roof = np.abs(c.x - cx) <= wide * (1 - (cy - tall - c.y) / (tall * 0.4))
            top = (c.y < cy - tall + 0.5) & (c.y > cy - tall * 1.35) & roof
            c.paint(body | top, (0.95, 0.6, 0.1), 3, thing=True)


def scenes(c: Canvas) -> None:
    height = c.size[0]
    horizon, road = height * c.rng.uniform(0.25, 0.45), height * c.rng.uniform(0.62, 0.78)
    wave = c.noise(3, 0.02 * height)
    c.paint(np.ones(c.size, bool), np.array([0.55, 0.7, 0.9]) + c.rng.uniform(-0.1, 0.1, 3), 0, rough=0.03)
    c.paint(c.y + wave > horizon, np.array([0.3, 0.5, 0.2]) + c.rng.uniform(-0.08, 0.08, 3), 1, rough=0.1)
    c.paint(c.y > road, np.full(3, c.rng.uniform(0.3, 0.45)), 2, rough=0.03)
    for _ in range(c.rng.integers(1, 6)):
        radius = c.side * c.rng.uniform(0.06, 0.14)
        cy, cx = c.rng.uniform(horizon, height - radius), c.place(radius)[1]
        if c.rng.random() < 0.5:
            c.paint(c.disc(cy, cx, radius), c.color((0.3, 0.5, 0.2)), 3, thing=True)
        else:
            c.paint(c.box(cy, cx, radius * 1.2, radius * 0.8), c.color((0.3, 0.5, 0.2)), 4, thing=True)


def rooms(c: Canvas) -> None:
    """Seen by a level-headed person with NYUDv2's camera, 1.1 to 1.5 m above the floor, looking down a little."""
    camera, eye, reach = kinect(*c.size), c.rng.uniform(1.1, 1.5), c.rng.uniform(2.5, 4.5)
    down, turn = np.radians(c.rng.uniform(8, 28)), np.radians(c.rng.uniform(-35, 35))
    tilt = np.array([[1, 0, 0], [0, math.cos(down), math.sin(down)], [0, -math.sin(down), math.cos(down)]])
    spin = np.array([[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]])
    rays = np.stack([(c.x - 0.5 - camera.cx) / camera.fx, (c.y - 0.5 - camera.cy) / camera.fy, np.ones(c.size)], -1)
    rays = rays @ (spin @ tilt).T  # in the room: x right, y down, z ahead, from the eye
    side = c.rng.choice([-1, 1]) * c.rng.uniform(1.2, 2.5)
    with np.errstate(divide="ignore"):
        c.depth = np.full(c.size, np.inf)
        for axis, place, label in ((1, eye, 0), (2, reach, 1), (0, side, 1), (2, -4.0, 1), (0, -np.sign(side) * 4, 1)):
            along = place / rays[..., axis]
            _nearer(c, np.where(along > 0, along, np.inf), label)
        for _ in range(c.rng.integers(1, 5)):
            size = c.rng.uniform((0.3, 0.3, 0.3), (1.2, 0.9, 1.2))
            middle = c.rng.uniform((-1.5, 0, 1.2), (1.5, 0, reach))
            low, high = middle - size / 2, middle + size / 2
            low[1], high[1] = eye - size[1], eye
            ends = np.sort([low / rays, high / rays], 0)
            enter, leave = ends[0].max(-1), ends[1].min(-1)
            _nearer(c, np.where((enter < leave) & (enter > 0.3), enter, np.inf), 2)
    c.depth = (c.depth * (1 + 0.002 * c.rng.normal(size=c.size))).astype(np.float32)
    c.depth[c.noise(8, 1.0) > 2.2] = 0  # the sensor saw nothing there


def _nearer(c: Canvas, depth: np.ndarray, label: int) -> None:
    """A surface, where it hides what was there."""
    assert c.depth is not None
    seen = depth < c.depth
    c.depth[seen] = depth[seen]
    c.paint(seen, c.rng.uniform(0.15, 0.85, 3), label, rough=0.08)


@dataclass(frozen=True)
class Kind:
    """How to draw one made data set, its classes and the usual size."""

    draw: Callable[[Canvas], None]
    names: tuple[str, ...]
    stuff: int = 1  # the first so many classes are no objects
    size: tuple[int, int] = (96, 96)
    deep: bool = False  # draws a depth image too
    keypoints: tuple[str, ...] = ()

    @property
    def classes(self) -> Classes:
        things = tuple(i >= self.stuff for i in range(len(self.names)))
        return Classes(self.names, things=things, keypoints=self.keypoints)


KINDS = MappingProxyType(
    {
        "shapes3": Kind(shapes3, ("background", "disc", "square", "triangle")),
        "rods": Kind(rods, ("background", "rod"), size=(128, 128)),
        "stickmen": Kind(stickmen, ("background", "person"), size=(128, 128), keypoints=PERSON),
        "rings": Kind(rings, ("background", "ring", "blob")),
        "stripes": Kind(stripes, ("background", "stripe"), stuff=2, size=(64, 64)),
        "cells": Kind(cells, ("background", "cell"), size=(128, 128)),
        "flood": Kind(flood, ("dry", "flooded"), stuff=2),
        "drinks": Kind(drinks, ("background", "soda", "bottle", "juice"), size=(480, 640)),
        "scenes": Kind(scenes, ("sky", "grass", "road", "ball", "box"), stuff=3, size=(96, 128)),
        "rooms": Kind(rooms, ("floor", "wall", "furniture"), stuff=3, size=(96, 128), deep=True),
    }
)


@dataclass(frozen=True)
class Synthetic(Samples):
    """A data set that is drawn sample by sample."""

    name: str
    split: str
    kind: Kind
    size: tuple[int, int]
    numbers: tuple[tuple[str, int], ...]  # (split, number) of every sample
    seed: int = 0
    depth_as: str | None = "metres"

    @property
    def classes(self) -> Classes:
        return self.kind.classes

    def __len__(self) -> int:
        return len(self.numbers)

    def paths(self, index: int) -> tuple[Path, ...]:
        """Nothing of this lies on disk."""
        return ()

    def seeing(self, depth_as: str | None) -> Synthetic:
        """The same samples with their depth as a model wants it, or without."""
        if depth_as is not None and not self.kind.deep:
            hint = f"choose from {', '.join(name for name, kind in KINDS.items() if kind.deep)}"
            raise UserError(f"depth is wanted, and synthetic:{self.name} has none", hint=hint)
        return replace(self, depth_as=depth_as)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Synthetic: ...
    def __getitem__(self, index: int | slice) -> Sample | Synthetic:
        if isinstance(index, slice):
            return replace(self, numbers=self.numbers[index])
        split, number = self.numbers[index]
        key = (self.seed, zlib.crc32(self.name.encode()), list(COUNTS).index(split), number)
        canvas = Canvas(np.random.default_rng(key), self.size)
        self.kind.draw(canvas)
        objects = [(mask, label) for mask, label in canvas.objects if mask.any()]
        image = (canvas.image.clip(0, 1) * 255).round().astype(np.uint8)
        instances = None
        if self.kind.stuff < len(self.kind.names):
            dense = np.stack([mask for mask, _ in objects]) if objects else np.zeros((0, *self.size), bool)
            labels = torch.tensor([label for _, label in objects], dtype=torch.int64)
            instances = Instances.from_masks(Masks.from_dense(torch.from_numpy(dense)), labels, self.classes)
            if self.kind.keypoints:
                points = [xy for (mask, _), xy in zip(canvas.objects, canvas.points, strict=True) if mask.any()]
                instances = replace(instances, keypoints=_seen(points, dense))
        return Sample(
            torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            name=f"{self.name}_{split}_{number:04d}",
            semantic=torch.from_numpy(canvas.labels),
            instances=instances,
            classes=self.classes,
            depth=None if canvas.depth is None or self.depth_as is None else self._depth(canvas.depth),
        )

    def _depth(self, metres: np.ndarray) -> Float32[torch.Tensor, "d h w"]:
        return encoded(torch.from_numpy(metres)[None], self.depth_as or "metres")


def _seen(points: list[np.ndarray], masks: Bool[np.ndarray, "n h w"]) -> Float32[torch.Tensor, "n k 3"]:
    """Points with what is visible of them: 2 on their object, 1 where another one covers it, 0 outside the picture."""
    xy = np.stack(points)
    height, width = masks.shape[1:]
    column, row = np.floor(xy).astype(np.int64).transpose(2, 0, 1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    own = np.arange(len(masks))[:, None]
    on = masks[own, row.clip(0, height - 1), column.clip(0, width - 1)]
    found = np.concatenate([xy, (1.0 + on)[..., None]], 2) * inside[..., None]
    return torch.from_numpy(found.astype(np.float32))


def synthetic(
    name: str,
    split: str = "train",
    size: int | tuple[int, int] | None = None,
    count: int | None = None,
    seed: int = 0,
) -> Synthetic:
    """A made data set by name; `size` is a square or (height, width), `count` the samples of a split.

    The size may also stand in the name, as in "drinks@96x128".
    """
    name, at, said = name.partition("@")
    if at:
        if size is not None or not (found := re.fullmatch(r"(\d+)x(\d+)", said)):
            raise UserError(f"the size of {name} is {said!r}", hint=f"write it once, as {name}@96x128: height, width")
        size = int(found[1]), int(found[2])
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, 1)
        raise UserError(
            f"unknown synthetic data set {name!r}",
            hint=(f"did you mean {near[0]}? " if near else "") + f"choose from {', '.join(KINDS)}",
        )
    if split not in (*COUNTS, "all"):
        raise UserError(f"unknown split {split!r}", hint=f"choose from {', '.join(COUNTS)}, all")
    height, width = KINDS[name].size if size is None else (size, size) if isinstance(size, int) else size
    if height < 8 or width < 8:
        raise UserError(f"size is {height}x{width}", hint="shapes need at least 8x8 pixels")
    if count is not None and count < 1:
        raise UserError(f"count is {count}", hint="ask for at least one sample")
    splits = ("train", "val") if split == "all" else (split,)
    numbers = tuple((s, i) for s in splits for i in range(count or COUNTS[s]))
    return Synthetic(name, split, KINDS[name], (height, width), numbers, seed)
