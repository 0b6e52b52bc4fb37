"""Drawn clips with exact truth: shapes that move over a textured ground, in front of each other and out of sight.

Clip `i` of a split depends on (seed, split, i) only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import torch

from masklet.data.synthetic import COUNTS, Canvas
from masklet.structures import Clip
from masklet.structures.errors import UserError


@dataclass(frozen=True)
class Mover:
    """A shape, where it starts (in sides of the picture), how far it goes in one frame, and how it turns and grows."""

    kind: int  # 0 disc, 1 square, 2 triangle, 3 blob
    color: tuple[float, float, float]
    radius: float
    y: float
    x: float
    down: float
    right: float
    angle: float
    turn: float
    growth: float
    seed: int

    def mask(self, canvas: Canvas, t: int) -> np.ndarray:
        side = canvas.side
        cy, cx = (self.y + t * self.down) * canvas.size[0], (self.x + t * self.right) * canvas.size[1]
        radius, angle = self.radius * side * self.growth**t, self.angle + t * self.turn
        if self.kind == 0:
            return canvas.disc(cy, cx, radius)
        if self.kind == 1:
            return canvas.box(cy, cx, 0.9 * radius, 0.7 * radius, angle)
        if self.kind == 2:
            return canvas.triangle(cy, cx, 1.2 * radius, angle)
        own = Canvas(np.random.default_rng(self.seed), canvas.size)  # a blob swings the same way in every frame
        return own.blob(cy, cx, 0.9 * radius)


@dataclass(frozen=True)
class MovingShapes(Sequence[Clip]):
    """So many `clips` of 1 to `most` shapes, `frames` long; all of them begin in sight."""

    size: tuple[int, int] = (64, 64)
    frames: int = 8
    split: str = "train"
    clips: int = 200
    most: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in COUNTS:
            raise UserError(f"unknown split {self.split!r}", hint=f"choose from {', '.join(COUNTS)}")

    def __len__(self) -> int:
        return self.clips

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> MovingShapes: ...
    def __getitem__(self, index: int | slice) -> Clip | MovingShapes:
        if isinstance(index, slice):
            if index.start or index.step:
                raise UserError("clips are cut off at the end only", hint="use [:count]")
            return replace(self, clips=min(self.clips, index.stop))
        if not 0 <= index < self.clips:
            raise IndexError(index)
        key = (self.seed, list(COUNTS).index(self.split), index)
        rng = np.random.default_rng(key)
        movers = [_mover(rng) for _ in range(rng.integers(1, self.most + 1))]
        ground = rng.uniform(0.1, 0.9, 3)
        images, masks = [], []
        for t in range(self.frames):
            canvas = Canvas(np.random.default_rng(key), self.size)  # the same textures in every frame
            canvas.paint(np.ones(self.size, bool), ground, 0, rough=0.1)
            for mover in movers:
                canvas.paint(mover.mask(canvas, t), mover.color, 1, thing=True)
            images.append((canvas.image.clip(0, 1) * 255).round().astype(np.uint8).transpose(2, 0, 1))
            masks.append(np.stack([mask for mask, _ in canvas.objects]))
        clip = Clip(
            torch.from_numpy(np.ascontiguousarray(np.stack(images))),
            torch.from_numpy(np.ascontiguousarray(np.stack(masks, 1))),
            name=f"moving_{self.split}_{index:04d}",
        )
        seen = clip.masks[:, 0].flatten(1).sum(1) >= 9
        return Clip(clip.frames, clip.masks[seen], clip.name)

    def draw(self, frames: int, generator: torch.Generator) -> Clip:
        """A clip of `frames` frames with an object in it, from any of the training clips there could be."""
        while True:
            number = int(torch.randint(2**31, (), generator=generator))
            clip = replace(self, frames=frames, clips=number + 1)[number]
            if len(clip.masks):
                return clip


def _mover(rng: np.random.Generator) -> Mover:
    color = rng.uniform(0.05, 0.95, 3)
    way = rng.uniform(0, 2 * math.pi)
    speed = rng.uniform(0.0, 0.05)
    return Mover(
        kind=int(rng.integers(4)),
        color=(float(color[0]), float(color[1]), float(color[2])),
        radius=float(rng.uniform(0.12, 0.25)),
        y=float(rng.uniform(0.2, 0.8)),
        x=float(rng.uniform(0.2, 0.8)),
        down=float(speed * math.sin(way)),
        right=float(speed * math.cos(way)),
        angle=float(rng.uniform(0, 2 * math.pi)),
        turn=float(rng.uniform(-0.15, 0.15)),
        growth=float(rng.uniform(0.96, 1.04)),
        seed=int(rng.integers(2**31)),
    )
