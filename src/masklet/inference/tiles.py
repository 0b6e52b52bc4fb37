"""Huge pictures in pieces: overlapping tiles whose predictions fade into each other, in bounded memory.

Of the overlap of two tiles the outer quarters belong to one tile alone and the middle half fades from one to the
other. So what a model sees less than a quarter of the overlap away from the cut edge of a tile never counts, and a
model that looks no further than that gives the very result of the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from masklet.ops.tiles import fades, windows
from masklet.structures.errors import UserError

Block = tuple[int, int, Float[Tensor, "k h w"]]
ALIGN = 32  # tile sides are multiples of the coarsest stride of common models


def blocks(
    chances: Callable[[Shaped[Tensor, "b c h w"]], Float[Tensor, "b k h w"]],
    image: Shaped[Tensor, "c H W"],
    tile: int,
    overlap: float = 0.25,
    batch: int = 1,
) -> Iterator[Block]:
    """Finished parts (y, x, probabilities) of the picture, each pixel in one of them, from the top left on.

    `chances` turns a batch of tiles into probabilities. Only what later tiles still add to is kept: the strip that
    the next row of tiles overlaps, and the columns that the next tile overlaps.
    """
    check(tile, overlap)
    boxes = windows((image.shape[1], image.shape[2]), tile, overlap)
    ys, xs = (sorted({box[axis] for box in boxes}) for axis in (0, 1))
    high, wide = min(tile, image.shape[1]), min(tile, image.shape[2])
    down, across = fades(ys, high), fades(xs, wide)
    below: list[Tensor | None] = [None] * len(xs)  # per column of tiles: unfinished rows of the tiles above
    for row, (y, next_y) in enumerate(zip(ys, [*ys[1:], ys[-1] + high], strict=True)):
        right: Tensor | None = None  # unfinished columns of the tile to the left
        for start in range(0, len(xs), batch):
            group = xs[start : start + batch]
            found = chances(torch.stack([image[:, y : y + high, x : x + wide] for x in group])).float()
            for column, part in enumerate(found, start):
                x, next_x = xs[column], [*xs, xs[-1] + wide][column + 1]
                part = part * (down[row][:, None] * across[column]).to(part.device)
                if right is not None:
                    part[..., : right.shape[-1]] += right
                right = part[..., next_x - x :].clone() if next_x < x + wide else None
                part = part[..., : next_x - x]
                if (above := below[column]) is not None:
                    part[:, : above.shape[1]] += above
                below[column] = part[:, next_y - y :].clone() if next_y < y + high else None
                yield y, x, part[:, : next_y - y]


def check(tile: int, overlap: float) -> None:
    """Refuses tiles that cannot cover a picture."""
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < ALIGN:
        raise UserError(f"tile is {tile!r}", hint=f"give the side of a tile in pixels, {ALIGN} or more, such as 512")
    if not 0 <= overlap <= 0.75:
        raise UserError(f"overlap is {overlap}", hint="give a share of the tile from 0 to 0.75, such as 0.25")
