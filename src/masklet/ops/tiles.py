"""How a huge image is cut into windows that overlap, and how much each pixel of a window counts."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor


def windows(
    size: tuple[int, int], tile: int | tuple[int, int], overlap: int | float = 0.25
) -> list[tuple[int, int, int, int]]:
    """Windows (y0, x0, y1, x1) that cover an image, neighbours sharing at least `overlap` of a tile.

    The last window of a row or column is shifted back inside; an image smaller than a tile is one smaller window.
    """
    height, width = (tile, tile) if isinstance(tile, int) else tile
    if min(height, width) < 1 or min(size) < 1:
        raise ValueError(f"cannot cut {size[0]}x{size[1]} into tiles of {height}x{width}; sides need a pixel at least")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is the shared part of a tile, 0 <= overlap < 1, not {overlap}")
    rows, columns = _starts(size[0], height, overlap), _starts(size[1], width, overlap)
    return [(y, x, min(y + height, size[0]), min(x + width, size[1])) for y in rows for x in columns]


def _starts(side: int, tile: int, overlap: int | float) -> list[int]:
    stride = max(math.ceil(tile * (1 - overlap) - 1e-6), 1)  # 81 * (1 - 1 / 3) is 54.00000000000001
    count = math.ceil(max(side - tile, 0) / stride) + 1
    return [max(min(i * stride, side - tile), 0) for i in range(count)]


def fades(starts: list[int], length: int) -> list[Float[Tensor, " n"]]:
    """One weight per pixel of each of the windows that begin at `starts`; at every place they add up to 1.

    Of the overlap of two windows the outer quarters belong to one of them alone, and the middle half fades.
    """
    where = torch.arange(length)
    rises = [torch.ones(length)]
    for before, start in pairwise(starts):
        band = before + length - start
        rises.append(((where + 0.5 - band / 4) / max(band / 2, 1)).clamp(0, 1) if band else torch.ones(length))
    weights = []
    for i, start in enumerate(starts):
        weight = rises[i]
        for j in range(i + 1, len(starts)):  # a later window takes what it covers; the last one may cover two
            shift = starts[j] - start
            if shift >= length:
                break
            weight = weight.clone()
            weight[shift:] *= 1 - rises[j][: length - shift]
        weights.append(weight)
    return weights
