"""Masks as polygons: rings of x y points, holes included, and COCO's own way to draw them.

Pixel (row, column) covers the square from (column, row) to (column + 1, row + 1). Outer rings run clockwise on the
screen (positive area), holes the other way round (negative area).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from masklet.ops.rle import RLE, _array, _from_toggles, merge

Ring = Float[np.ndarray, "_ 2"]


def area(ring: Ring) -> float:
    """Signed area of a ring: positive for outer rings, negative for holes."""
    x, y = ring[:, 0], ring[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def trace(mask: Tensor | np.ndarray) -> list[Ring]:
    """The rings along the pixel borders of a mask; `fill` makes exactly the same mask of them.

    Pixels that touch only at a corner belong to different rings. Only corners become points.
    """
    mask = _array(mask)
    padded = np.pad(mask, 1)
    nw, ne, sw, se = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    saddle = (nw == se) & (ne == sw) & (nw != ne)
    flat = np.flatnonzero((nw ^ ne ^ sw ^ se) | saddle)
    flat = np.repeat(flat, 1 + saddle.reshape(-1)[flat])  # two rings meet in a saddle
    if not len(flat):
        return []
    y, x = np.divmod(flat, mask.shape[1] + 1)
    # Row by row corners pair up into horizontal sides, column by column into vertical ones. Of the two corners in a
    # saddle the first has the side to the left; it goes on upwards if the pixel above left is set, else downwards.
    second = np.append(False, flat[1:] == flat[:-1])
    swapped = saddle.reshape(-1)[flat] & ~nw.reshape(-1)[flat]
    down = np.lexsort((second ^ swapped, y, x))
    vertical = np.empty_like(down)
    vertical[down[::2]], vertical[down[1::2]] = down[1::2], down[::2]
    rightwards = se.reshape(-1)[flat[::2]]  # the mask is below: walk right, so that it stays on the right hand
    left = np.arange(0, len(flat), 2)
    source, target = np.where(rightwards, left, left + 1), np.where(rightwards, left + 1, left)
    order, lengths = _cycles(vertical[target] // 2)
    corners = np.stack([source[order], target[order]], 1).reshape(-1)
    points = np.stack([x[corners], y[corners]], 1).astype(np.float64)
    return np.split(points, np.cumsum(2 * lengths)[:-1])


def _cycles(following: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " cycles"]]:
    """The members of a permutation cycle after cycle, each in walking order, and how long each cycle is."""
    n = len(following)
    here, label, jump = np.arange(n), np.arange(n), following
    rounds = range(max(n - 1, 1).bit_length())
    for _ in rounds:  # every jump is twice as long as the one before
        label, jump = np.minimum(label, label[jump]), jump[jump]
    first = label == here
    steps, jump = np.where(first, 0, 1), np.where(first, here, following)
    for _ in rounds:
        steps, jump = steps + steps[jump], jump[jump]
    steps[first] = n  # the first of a cycle is farthest from its own return
    return np.lexsort((-steps, label)), np.bincount(label, minlength=n)[first]


def fill(rings: Sequence[Ring], height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """The pixels whose centres lie inside an odd number of rings (so rings inside rings are holes)."""
    mask = np.zeros((height, width), np.bool_)
    a = np.concatenate([np.asarray(ring, np.float64) for ring in rings]) if rings else np.zeros((0, 2))
    b = np.concatenate([np.roll(np.asarray(ring, np.float64), -1, axis=0) for ring in rings]) if rings else a
    ends = np.ceil(np.stack([a[:, 1], b[:, 1]]) - 0.5).clip(0, height).astype(np.int64)
    top, rows = ends.min(0), np.abs(ends[1] - ends[0])
    side = np.repeat(np.arange(len(a)), rows)  # one entry for every side and row that it crosses
    y = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows) + top[side]
    (x0, y0), (x1, y1) = a[side].T, b[side].T
    crossing = x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    x = np.ceil(crossing - 0.5).clip(0, width).astype(np.int64)
    toggles = np.sort(y * (width + 1) + x)  # even entries begin a run of a row, odd ones end it
    if not len(toggles):
        return mask
    y, x = np.divmod(toggles, width + 1)
    box = slice(y[0], y[-1] + 1), slice(x.min(), x.max())
    edges = np.zeros((box[0].stop - box[0].start, box[1].stop - box[1].start + 1), np.uint8)
    np.bitwise_xor.at(edges, (y - box[0].start, x - box[1].start), 1)
    mask[box] = np.bitwise_xor.accumulate(edges, axis=1)[:, :-1]
    return mask


_FINE, _MIDDLE = 5, 2  # COCO walks along the outline on a grid five times finer than the pixels


def rasterize(ring: Ring, height: int, width: int) -> RLE:
    """One polygon as COCO's tools draw it, pixel for pixel (their `frPyObjects`)."""
    if len(ring) < 3:
        raise ValueError(f"a polygon needs at least 3 points, this one has {len(ring)}")
    length, size = np.array([len(ring)]), (np.array([height]), np.array([width]))
    toggles, _ = crossings(np.asarray(ring, np.float64), length, *size)
    return _from_toggles(np.sort(toggles), height, width)


def crossings(
    points: Float[np.ndarray, "p 2"],
    lengths: Int[np.ndarray, " rings"],
    heights: Int[np.ndarray, " rings"],
    widths: Int[np.ndarray, " rings"],
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Where many rings, one after another in `points`, cross the middles of pixel columns, as COCO's tools round it.

    Returns column-major positions in the image of each ring, in no order, and the ring that each belongs to: between
    the first and second position of a ring its mask is set, and so on.
    """
    corners = np.trunc(_FINE * points + 0.5).astype(np.int64)
    ring = np.repeat(np.arange(len(lengths)), lengths)
    following = np.arange(1, len(points) + 1)
    following[np.cumsum(lengths) - 1] = np.cumsum(lengths) - lengths
    start, end = corners, corners[following]
    reach = np.abs(end - start)
    side = np.arange(len(start))
    steep = reach[:, 0] < reach[:, 1]
    main = steep.astype(np.int64)  # the axis along which COCO walks step by step
    back = start[side, main] > end[side, main]  # always upwards in that axis, as rounding differs otherwise
    low, high = np.where(back[:, None], end, start), np.where(back[:, None], start, end)
    slope = (high - low)[side, 1 - main] / np.maximum(reach.max(1), 1)

    # Fine columns 5 k + 2 and 5 k + 3 meet in the middle of pixel column k: only there does a step count.
    left, right = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
    first = np.maximum(-((_MIDDLE - left) // _FINE), 0)
    count = np.maximum(np.minimum((right - 1 - _MIDDLE) // _FINE, widths[ring] - 1) - first + 1, 0)
    edge = np.repeat(side, count)
    column = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - first, count)
    u = _FINE * column + _MIDDLE
    v = np.empty(len(edge), np.int64)
    flat = ~steep[edge]

    (x, y), s, step = low[edge[flat]].T, slope[edge[flat]], u[flat] - low[edge[flat], 0]
    v[flat] = np.minimum(np.trunc(y + s * step + 0.5), np.trunc(y + s * (step + 1) + 0.5)).astype(np.int64)
    (x, y), s, bound = low[edge[~flat]].T, slope[edge[~flat]], u[~flat] + 1
    step = np.ceil((bound - 0.5 - x) / s)  # first step beyond the middle, but for rounding
    over = s > 0
    step -= (x + s * (step - 1) + 0.5 >= bound) == over
    step += (x + s * step + 0.5 >= bound) != over
    v[~flat] = (y + step - 1).astype(np.int64)

    height = heights[ring[edge]]
    row = np.ceil(((v + 0.5) / _FINE - 0.5).clip(0, height)).astype(np.int64)
    return column * height + row, ring[edge]


def from_coco(polygons: Sequence[Sequence[int | float]], height: int, width: int) -> RLE:
    """COCO's polygons (flat lists x y x y ...) as one mask: the union of them all."""
    rings = []
    for i, flat in enumerate(polygons):
        if len(flat) < 6 or len(flat) % 2:
            hint = "COCO polygons are x y x y ..., at least 3 points"
            raise ValueError(f"polygon {i} has {len(flat)} numbers; {hint}")
        rings.append(rasterize(np.asarray(flat, np.float64).reshape(-1, 2), height, width))
    return merge(rings) if rings else _from_toggles(np.zeros(0, np.int64), height, width)


def to_coco(rings: Sequence[Ring]) -> list[list[float]]:
    """Flat lists x y x y ... of the outer rings; COCO's polygons know no holes."""
    return [ring.reshape(-1).tolist() for ring in rings if area(ring) > 0]
