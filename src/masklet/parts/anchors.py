"""Anchors: boxes of a few sizes and shapes at every position of a map, from which a detector starts to guess."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Cells = Callable[[Sequence[int | float], Sequence[int | float]], Float[Tensor, "a 4"]]
Step = Callable[[int, int, int], int]


def size_major(sizes: Sequence[int | float], ratios: Sequence[int | float]) -> Float[Tensor, "a 4"]:
    """Boxes around the origin, all shapes of the first size first; a ratio is height / width (detectron2)."""
    return torch.stack([_box(size, ratio) for size in sizes for ratio in ratios])


def ratio_major(sizes: Sequence[int | float], ratios: Sequence[int | float]) -> Float[Tensor, "a 4"]:
    """Boxes around the origin, all sizes of the first shape first (mmdet)."""
    return torch.stack([_box(size, ratio) for ratio in ratios for size in sizes])


def rounded(sizes: Sequence[int | float], ratios: Sequence[int | float]) -> Float[Tensor, "a 4"]:
    """As `ratio_major`, with corners at whole pixels (torchvision)."""
    return ratio_major(sizes, ratios).round()


def _box(size: int | float, ratio: int | float) -> Float[Tensor, " 4"]:
    width, height = size / ratio**0.5, size * ratio**0.5
    return torch.tensor([-width, -height, width, height]) / 2


def by_stride(side: int, cells: int, stride: int) -> int:
    """Pixels from one anchor to the next: the stride of the map."""
    return stride


def by_share(side: int, cells: int, stride: int) -> int:
    """Pixels from one anchor to the next: the side of the image over that of the map, rounded down (torchvision).

    Where a map was rounded up this is less than its stride: 224 pixels on 4 cells of stride 64 make 56.
    """
    return side // cells


@runtime_checkable
class Grid(Protocol):
    """Anchors of any form."""

    @property
    def count(self) -> int:
        """Anchors per position."""
        ...

    def __call__(
        self, maps: Sequence[Float[Tensor, "b _ _ _"]], strides: Sequence[int], size: tuple[int, int]
    ) -> list[Float[Tensor, "_ d"]]: ...


@dataclass(frozen=True)
class Anchors:
    """The anchors of every level of a pyramid: `sizes` of each level (square root of the area), `ratios` of all.

    The first position is at the corner of the image, not at the middle of the first cell.
    """

    sizes: tuple[tuple[int | float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    ratios: tuple[int | float, ...] = (0.5, 1.0, 2.0)
    cells: Cells = size_major
    step: Step = by_stride

    @property
    def count(self) -> int:
        """Anchors per position."""
        return len(self.sizes[0]) * len(self.ratios)

    def __call__(
        self, maps: Sequence[Float[Tensor, "b _ _ _"]], strides: Sequence[int], size: tuple[int, int]
    ) -> list[Float[Tensor, "_ 4"]]:
        """For each map, row by row and at each position in the order of `cells`; `size` is that of the padded image."""
        out = []
        for x, stride, sizes in zip(maps, strides, self.sizes, strict=True):
            y, x0 = (
                torch.arange(n, device=x.device) * self.step(side, n, stride)
                for n, side in zip(x.shape[-2:], size, strict=True)
            )
            rows, columns = torch.meshgrid(y, x0, indexing="ij")
            corners = torch.stack([columns, rows, columns, rows], -1).reshape(-1, 1, 4)
            out.append((corners + self.cells(sizes, self.ratios).to(x)).reshape(-1, 4))
        return out


@dataclass(frozen=True)
class RotatedAnchors:
    """Anchors cx cy w h degrees: at every position all `sizes` of a level, each in all `ratios`, each at all `angles`.

    With 30 degrees from one angle to the next and ratios with their inverses, -90 to -30 turn in all directions.
    `offset` is where in its cell a position is: the middle, or detectron2's default, the corner (0).
    """

    sizes: tuple[tuple[int | float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    ratios: tuple[int | float, ...] = (0.5, 1.0, 2.0)
    angles: tuple[int | float, ...] = (-90.0, -60.0, -30.0)
    offset: float = 0.5

    @property
    def count(self) -> int:
        """Anchors per position."""
        return len(self.sizes[0]) * len(self.ratios) * len(self.angles)

    def __call__(
        self, maps: Sequence[Float[Tensor, "b _ _ _"]], strides: Sequence[int], size: tuple[int, int]
    ) -> list[Float[Tensor, "_ 5"]]:
        """For each map, row by row; at each position the angle changes first, then the ratio, then the size."""
        out = []
        for x, stride, sizes in zip(maps, strides, self.sizes, strict=True):
            shapes = [(s / r**0.5, s * r**0.5, a) for s in sizes for r in self.ratios for a in self.angles]
            y, x0 = ((torch.arange(n, device=x.device) + self.offset) * stride for n in x.shape[-2:])
            rows, columns = torch.meshgrid(y, x0, indexing="ij")
            centres = torch.stack([columns, rows], -1).reshape(-1, 1, 2).expand(-1, len(shapes), -1).to(x)
            out.append(torch.cat([centres, x.new_tensor(shapes).expand(len(centres), -1, -1)], -1).reshape(-1, 5))
        return out
