"""Rotated boxes: cx cy w h in pixels and degrees, positive counter-clockwise on the screen (detectron2's convention).

At 0 degrees w runs to the right and h downwards. A rectangle has many such descriptions: turned by 180 degrees, or by
90 degrees with w and h exchanged, it is the same; whoever compares angles settles on one of them first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from masklet.ops import nms as suppression
from masklet.ops import rle
from masklet.ops.boxes import GROWTH_LIMIT
from masklet.ops.rle import RLE

AT_ONCE = 1 << 20  # pairs of boxes compared, or pixels looked at, at a time: some hundred bytes each

Boxes = Float[Tensor, "*n 5"]


def corners(boxes: Float[Tensor, "*n 5"]) -> Float[Tensor, "*n 4 2"]:
    """The corners x y, clockwise on the screen; without rotation the upper left one is first."""
    cx, cy, w, h, degrees = boxes.unbind(-1)
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    across, down = torch.stack([w * cos, -w * sin], -1) / 2, torch.stack([h * sin, h * cos], -1) / 2
    centre = torch.stack([cx, cy], -1)
    return torch.stack([centre + i * across + j * down for i, j in _SIGNS], -2)


_SIGNS = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def bounds(boxes: Float[Tensor, "*n 5"]) -> Float[Tensor, "*n 4"]:
    """The smallest upright box x0 y0 x1 y1 around each."""
    points = corners(boxes)
    return torch.cat([points.amin(-2), points.amax(-2)], -1)


def from_xyxy(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 5"]:
    """Upright boxes as rotated ones of 0 degrees."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low, torch.zeros_like(low[..., :1])], -1)


def upright(boxes: Float[Tensor, "*n 5"]) -> Float[Tensor, "*n 4"]:
    """Each box turned back to 0 degrees around its middle, as x0 y0 x1 y1."""
    half = boxes[..., 2:4] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def area(boxes: Float[Tensor, "*n 5"]) -> Float[Tensor, "*n"]:
    """Width times height; 0 where a side is negative."""
    return boxes[..., 2:4].clamp(min=0).prod(-1)


def iou(a: Float[Tensor, "*#n 5"], b: Float[Tensor, "*#n 5"]) -> Float[Tensor, "*n"]:
    """Overlap of each box in `a` with its partner in `b`, 0..1; 0 where both are empty.

    The area of b within a is an integral around the outline of b, in the frame of a: x, limited to a, times dy. It
    needs no list of crossings and no sorting, and is steady where sides fall together.
    """
    a, b = torch.broadcast_tensors(a, b)
    own, shift = a[..., 4].deg2rad(), b[..., :2] - a[..., :2]
    x = shift[..., 0] * own.cos() - shift[..., 1] * own.sin()
    y = shift[..., 0] * own.sin() + shift[..., 1] * own.cos()
    in_frame = torch.stack([x, y, *b[..., 2:4].clamp(min=0).unbind(-1), b[..., 4] - a[..., 4]], -1)
    start = corners(in_frame)
    end = start.roll(-1, -2)
    half = a[..., 2:4].clamp(min=0)[..., None, :] / 2  # of a, for each of the four sides of b

    # Of every side of b the part between the upper and lower side of a, and over that part the mean of x, limited to a.
    rise = end[..., 1] - start[..., 1]
    limit = half[..., 1]
    top, bottom = (p[..., 1].clamp(-limit, limit) for p in (start, end))
    run, rise = end[..., 0] - start[..., 0], rise.where(rise != 0, 1)
    x0, x1 = (start[..., 0] + ((at - start[..., 1]) / rise).clamp(0, 1) * run for at in (top, bottom))
    low, high = torch.minimum(x0, x1), torch.maximum(x0, x1)
    inter = ((bottom - top) * _mean_of_limited(low, high, half[..., 0])).sum(-1)
    own_area, other_area = area(a), area(b)
    inter = torch.minimum(inter.clamp(min=0), torch.minimum(own_area, other_area))
    union = own_area + other_area - inter
    return inter / union.where(union > 0, 1)


def _mean_of_limited(
    low: Float[Tensor, "*n"], high: Float[Tensor, "*n"], limit: Float[Tensor, "*#n"]
) -> Float[Tensor, "*n"]:
    """The mean, from low to high, of x limited to -limit .. limit."""
    length = high - low
    below = torch.minimum((-limit - low).clamp(min=0), length)
    above = torch.minimum((high - limit).clamp(min=0), length)
    middle = (low.clamp(-limit, limit) + high.clamp(-limit, limit)) / 2
    share = 1 / length.where(length > 0, 1)
    return middle + ((-limit - middle) * below + (limit - middle) * above) * share


def pairwise_iou(a: Float[Tensor, "n 5"], b: Float[Tensor, "m 5"]) -> Float[Tensor, "n m"]:
    """Overlap of every box in `a` with every box in `b`; only pairs that can overlap cost time and memory."""
    return _iou_of(a, b, _near(a, b))


def _near(a: Float[Tensor, "n 5"], b: Float[Tensor, "m 5"]) -> Bool[Tensor, "n m"]:
    """Which upright boxes around them meet."""
    around_a, around_b = bounds(a)[:, None], bounds(b)[None]
    return (around_a[..., :2] < around_b[..., 2:]).all(-1) & (around_b[..., :2] < around_a[..., 2:]).all(-1)


def _iou_of(a: Float[Tensor, "n 5"], b: Float[Tensor, "m 5"], pairs: Bool[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Overlap of the given pairs, 0 elsewhere."""
    row, column = pairs.nonzero(as_tuple=True)
    parts = [iou(a[i], b[j]) for i, j in zip(row.split(AT_ONCE), column.split(AT_ONCE), strict=True)]
    out = torch.zeros(len(a), len(b), dtype=a.dtype, device=a.device)
    return out.index_put((row, column), torch.cat(parts)) if parts else out


def nms(
    boxes: Float[Tensor, "n 5"],
    scores: Float[Tensor, " n"],
    threshold: float,
    groups: Int64[Tensor, " n"] | None = None,
) -> Int64[Tensor, " kept"]:
    """Best first, every box that overlaps no kept one (of its group) by more than `threshold`.

    Objects side by side, all turned, are told apart that upright boxes would merge. For soft suppression:
    `nms.soft_nms(..., overlap=rotated.iou)`.
    """
    once = _iou_of(boxes, boxes, _near(boxes, boxes).triu(1))  # it is the same both ways
    return suppression.greedy(once + once.T, scores, threshold, groups)


def canonical(boxes: Float[Tensor, "*n 5"]) -> Float[Tensor, "*n 5"]:
    """The same rectangles with angles from -45 up to 45, the sides exchanged where needed."""
    return _turned(boxes, -((boxes[..., 4] + 45) / 90).floor())


def _turned(boxes: Float[Tensor, "*n 5"], quarters: Float[Tensor, "*n"]) -> Float[Tensor, "*n 5"]:
    """The same rectangles, described with angles so many quarter turns higher."""
    sides = boxes[..., 2:4].where((quarters % 2 == 0)[..., None], boxes[..., [3, 2]])
    return torch.cat([boxes[..., :2], sides, (boxes[..., 4] + 90 * quarters)[..., None]], -1)


Wrap = Callable[[Boxes, Boxes], Boxes]


def half_turn(targets: Float[Tensor, "*#n 5"], boxes: Float[Tensor, "*#n 5"]) -> Float[Tensor, "*n 5"]:
    """Angles of targets brought within 180 degrees of those of `boxes`; sides keep their names (detectron2)."""
    targets, boxes = torch.broadcast_tensors(targets, boxes)
    turn = (targets[..., 4:] - boxes[..., 4:] + 180) % 360 - 180
    return torch.cat([targets[..., :4], boxes[..., 4:] + turn], -1)


def eighth_turn(targets: Float[Tensor, "*#n 5"], boxes: Float[Tensor, "*#n 5"]) -> Float[Tensor, "*n 5"]:
    """Targets described with angles within 45 degrees of those of `boxes`, sides exchanged (rotated Mask R-CNN).

    An anchor then never learns to turn further than needed: 60 degrees to go are 30 back with w and h exchanged.
    """
    targets, boxes = torch.broadcast_tensors(targets, boxes)
    turn = targets[..., 4] - boxes[..., 4]
    return _turned(targets, -turn.sign() * ((turn.abs() - 45) / 90).ceil().clamp(min=0))


@dataclass(frozen=True)
class RotatedDeltaCoder:
    """How a network says where a rotated box should go: as `boxes.DeltaCoder`, and by how many radians to turn it.

    Shifts are along the axes of the image, in widths and heights of the box. `wrap` chooses among the descriptions of a
    target: `half_turn` or `eighth_turn`. Source: detectron2 `Box2BoxTransformRotated`; rotated_maskrcnn.
    """

    weights: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    wrap: Wrap = half_turn
    limit: float = GROWTH_LIMIT

    def __post_init__(self) -> None:
        if min(self.weights) <= 0:
            raise ValueError(f"weights are {self.weights}; give five numbers above 0")

    def encode(self, boxes: Float[Tensor, "*#n 5"], targets: Float[Tensor, "*#n 5"]) -> Float[Tensor, "*n 5"]:
        """The deltas that take `boxes` to `targets`; both need sides longer than 0."""
        targets = self.wrap(targets, boxes)
        shift = (targets[..., :2] - boxes[..., :2]) / boxes[..., 2:4]
        growth = (targets[..., 2:4] / boxes[..., 2:4]).log()
        turn = (targets[..., 4:] - boxes[..., 4:]).deg2rad()
        return torch.cat([shift, growth, turn], -1) * boxes.new_tensor(self.weights)

    def decode(self, boxes: Float[Tensor, "*#n 5"], deltas: Float[Tensor, "*#n 5"]) -> Float[Tensor, "*n 5"]:
        """The boxes that `deltas` point to from `boxes`, with angles from -180 up to 180."""
        deltas = deltas / deltas.new_tensor(self.weights)
        centre = boxes[..., :2] + deltas[..., :2] * boxes[..., 2:4]
        sides = boxes[..., 2:4] * deltas[..., 2:4].clamp(max=math.log(self.limit)).exp()
        degrees = (boxes[..., 4:] + deltas[..., 4:].rad2deg() + 180) % 360 - 180
        return torch.cat([centre, sides, degrees], -1)


def stretched(boxes: Float[Tensor, "*n 5"], x: float, y: float) -> Float[Tensor, "*n 5"]:
    """Boxes of an image that is made `x` times as wide and `y` times as high.

    A turned rectangle becomes slanted then; its sides keep their lengths, and the side w its direction (detectron2).
    """
    cx, cy, w, h, degrees = boxes.unbind(-1)
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    w, h = w * (x * cos).hypot(y * sin), h * (x * sin).hypot(y * cos)
    return torch.stack([cx * x, cy * y, w, h, torch.atan2(y * sin, x * cos).rad2deg()], -1)


Points = Float[np.ndarray, "_ 2"]


def of_masks(masks: Sequence[RLE]) -> Float[Tensor, "n 5"]:
    """The smallest rectangle around the pixels of each mask, taken as discs; angles -45 up to 45, zeros where empty.

    Squares would make what is thin and slanted thicker, by up to the diagonal of a pixel.
    """
    out = torch.zeros(len(masks), 5)
    if some := [i for i, mask in enumerate(masks) if mask.area]:
        found = min_area_rectangles([_ends_of_columns(masks[i]) for i in some])
        found[:, 2:4] += 1
        out[some] = found
    return out


def _ends_of_columns(mask: RLE) -> Float[np.ndarray, "p 2"]:
    """Middles of pixels that hold the convex hull of all: the first and last ones of each run in each column."""
    starts, ends = mask.toggles[::2], mask.toggles[1::2] - 1
    (x0, y0), (x1, y1) = (np.divmod(place, mask.height) for place in (starts, ends))
    on = x1 > x0  # the run goes on to the bottom, and at the top of the next column
    bottom, top = np.full(on.sum(), mask.height - 1), np.zeros(on.sum(), np.int64)
    x = np.concatenate([x0, x1, x0[on], x0[on] + 1, x1[on] - 1, x1[on]])
    y = np.concatenate([y0, y1, bottom, top, bottom, top])
    return np.stack([x, y], 1) + 0.5


def min_area_rectangles(objects: Sequence[Points]) -> Float[Tensor, "n 5"]:
    """The smallest rectangle around the points of each object, rings of polygons for instance; angles -45 up to 45.

    One side of it lies on the convex hull, so every side of the hull is tried (Freeman and Shapira, 1975). Points on a
    line give a height of 0, a single point also a width of 0.
    """
    n = len(objects)
    if empty := [i for i, points in enumerate(objects) if not len(points)]:
        raise ValueError(f"object {empty[0]} has no points; leave objects without points out")
    if not n:
        return torch.zeros(0, 5)
    points = np.concatenate([np.asarray(p, np.float64) for p in objects])
    owner = np.repeat(np.arange(n), [len(p) for p in objects])
    middle = np.stack([np.bincount(owner, points[:, i], n) for i in (0, 1)], 1) / np.bincount(owner)[:, None]
    hull, owners = _hulls(points - middle[owner], owner)  # small numbers: products of them are exact enough
    size = np.bincount(owners, minlength=n)
    first = np.cumsum(size) - size
    following = np.arange(1, len(hull) + 1)
    following[first + size - 1] = first
    along = hull[following] - hull
    length = np.hypot(*along.T)[:, None]
    along = np.where(length > 0, along / np.where(length > 0, length, 1), [1.0, 0.0])
    across = np.stack([-along[:, 1], along[:, 0]], 1)

    # The sides turn steadily, so the point farthest in a direction is where they turn past a right angle to it.
    angle = np.arctan2(along[:, 1], along[:, 0])
    turn = (angle - angle[first][owners]) % (2 * np.pi)
    turn[turn > 2 * np.pi - 1e-9] = 0  # rounding
    key = np.maximum.accumulate(turn + 8 * owners)

    def farthest(quarters: int) -> Int64[np.ndarray, " h"]:
        """For every side the point farthest in the direction of the side, turned by so many quarters."""
        found = np.searchsorted(key, (turn + (quarters + 1) * np.pi / 2) % (2 * np.pi) + 8 * owners)
        return np.where(found < (first + size)[owners], found, first[owners])

    high = np.stack([(hull[farthest(0)] * along).sum(1), (hull[farthest(1)] * across).sum(1)], 1)
    low = np.stack([(hull[farthest(2)] * along).sum(1), (hull * across).sum(1)], 1)
    best = np.lexsort(((high - low).prod(1), owners))[first]
    centre = (low + high)[best] / 2
    centre = centre[:, :1] * along[best] + centre[:, 1:] * across[best] + middle
    degrees = -np.degrees(np.arctan2(along[best, 1], along[best, 0]))
    found = np.concatenate([centre, (high - low)[best], degrees[:, None]], 1)
    return canonical(torch.from_numpy(found)).float()


def _hulls(
    points: Float64[np.ndarray, "p 2"], owner: Int64[np.ndarray, " p"]
) -> tuple[Float64[np.ndarray, "h 2"], Int64[np.ndarray, " h"]]:
    """The corners of the convex hull of each owner's points, first the lower side from left to right, then back."""
    order = np.lexsort((points[:, 1], points[:, 0], owner))
    points, owner = points[order], owner[order]
    new = np.ones(len(points), np.bool_)
    new[1:] = (points[1:] != points[:-1]).any(1) | (owner[1:] != owner[:-1])
    points, owner = points[new], owner[new]
    (lower, low_owner), (upper, up_owner) = _chain(points, owner), _chain(points[::-1], owner[::-1])
    last = np.append(low_owner[1:] != low_owner[:-1], True)
    single = np.append(True, last[:-1]) & last
    back = np.append(up_owner[1:] != up_owner[:-1], True)
    hull = np.concatenate([lower[~last | single], upper[~back]])
    owner = np.concatenate([low_owner[~last | single], up_owner[~back]])
    order = np.argsort(owner, kind="stable")
    return hull[order], owner[order]


def _chain(
    points: Float64[np.ndarray, "p 2"], owner: Int64[np.ndarray, " p"]
) -> tuple[Float64[np.ndarray, "q 2"], Int64[np.ndarray, " q"]]:
    """Half a convex hull of each object, from its first point to its last, in sorted points without repetition.

    A point that is not to the right of the line from the one before to the one after is no corner, whatever happens to
    those two; so all such go at once, until none is left.
    """
    while len(points) > 2:
        before, after = points[1:-1] - points[:-2], points[2:] - points[1:-1]
        inside = (owner[:-2] == owner[1:-1]) & (owner[2:] == owner[1:-1])
        flat = inside & (before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] <= 0)
        if not flat.any():
            break
        keep = np.append(np.insert(~flat, 0, True), True)
        points, owner = points[keep], owner[keep]
    return points, owner


def paste(
    probs: Float[Tensor, "n h w"], boxes: Float[Tensor, "m 5"], size: tuple[int, int], threshold: float = 0.5
) -> list[RLE]:
    """Masks of a (height, width) image: each map of probabilities turned into its box, where it is >= `threshold`.

    Pixels are points, and outside of its middles a map falls to 0 within one cell, as for upright boxes in
    `paste.continuous`. A box without extent has no pixels. Only the pixels around a box are looked at.
    """
    n, h, w = probs.shape
    height, width = size
    if len(boxes) != n:
        raise ValueError(f"{n} masks but {len(boxes)} boxes; give one box for each mask")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; choose one above 0, where the surroundings are, and up to 1")
    if not n or not min(h, w, height, width):
        return rle.from_toggles(np.empty(0, np.int64), np.zeros(n + 1, np.int64), height, width)
    boxes = boxes.detach().cpu().double()
    real = boxes.isfinite().all(1) & (boxes[:, 2:4] > 0).all(1)
    boxes = boxes.where(real[:, None], 0)
    grown = torch.cat([boxes[:, :2], boxes[:, 2:4] * (1 + 1 / boxes.new_tensor([w, h])), boxes[:, 4:]], 1)
    low, high = bounds(grown).view(n, 2, 2).unbind(1)
    limit = low.new_tensor([width, height])
    first, end = (side.clamp(min=0).minimum(limit).long().numpy() for side in (low.floor(), high.ceil()))
    columns, rows = (end - first).clip(0).T * real.numpy()
    grid = np.zeros((n, h + 2, w + 2), np.float32)
    grid[:, 1:-1, 1:-1] = probs.detach().float().cpu().numpy()

    masks: list[RLE] = []
    pixels = columns * (rows + 1)  # one row too many: there every column of pixels ends
    part = np.cumsum(pixels) // AT_ONCE
    for mine in np.split(np.arange(n), np.flatnonzero(np.diff(part)) + 1):
        owner = np.repeat(mine, pixels[mine])
        place = np.arange(len(owner)) - np.repeat(np.cumsum(pixels[mine]) - pixels[mine], pixels[mine])
        column, row = np.divmod(place, rows[owner] + 1)
        x, y = first[owner, 0] + column, first[owner, 1] + row
        inside = (row < rows[owner]) & (_at(grid, owner, x + 0.5, y + 0.5, boxes.numpy()) >= threshold)
        change = np.flatnonzero(np.diff(inside, prepend=False))
        starts = np.searchsorted(owner[change], np.append(mine, mine[-1] + 1))
        masks += rle.from_toggles((x * height + y)[change], starts, height, width)
    return masks


def _at(
    grid: Float[np.ndarray, "n h w"],
    owner: Int64[np.ndarray, " p"],
    x: Float64[np.ndarray, " p"],
    y: Float64[np.ndarray, " p"],
    boxes: Float64[np.ndarray, "n 5"],
) -> Float[np.ndarray, " p"]:
    """Values of framed maps, each in its rotated box, at points of the image."""
    h, w = grid.shape[1:]
    cx, cy, wide, high, degrees = boxes[owner].T
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    across = ((x - cx) * cos - (y - cy) * sin) / wide * (w - 2) + (w - 1) / 2
    down = ((x - cx) * sin + (y - cy) * cos) / high * (h - 2) + (h - 1) / 2
    across, down = across.clip(0, w - 1), down.clip(0, h - 1)
    left, top = np.minimum(across.astype(np.int64), w - 2), np.minimum(down.astype(np.int64), h - 2)
    right, lower = (across - left).astype(np.float32), (down - top).astype(np.float32)
    upper = grid[owner, top, left] * (1 - right) + grid[owner, top, left + 1] * right
    under = grid[owner, top + 1, left] * (1 - right) + grid[owner, top + 1, left + 1] * right
    return upper * (1 - lower) + under * lower
