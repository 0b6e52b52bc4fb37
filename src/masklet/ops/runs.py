"""Many masks at once: the runs of thousands of masks, of images of any sizes, in flat arrays.

One `RLE` is an object with its own arrays; a data set has a million of them. Here all foreground runs lie one after
another, so that areas, boxes and overlaps of a whole data set are a few operations on long arrays.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from masklet.ops import polygons, rle
from masklet.ops.rle import RLE

Indices = Int[np.ndarray, " _"]
_PIECE = 2**18  # characters at a time: what one operation leaves is still in the cache for the next
_OBJECTS = 256  # polygons at a time, for the same reason


@dataclass(frozen=True, eq=False)
class Runs:
    """Foreground runs of many masks, column by column: `starts[r]:ends[r]` are pixels of column-major positions.

    Mask i has the runs `first[i]` to `first[i + 1]`, in order, none of them empty, in an image of
    `heights[i]` x `widths[i]`.
    """

    starts: Int[np.ndarray, " r"]
    ends: Int[np.ndarray, " r"]
    first: Int[np.ndarray, " n_plus_1"]
    heights: Int[np.ndarray, " n"]
    widths: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.heights)

    def __getitem__(self, i: int) -> RLE:
        part = slice(self.first[i], self.first[i + 1])
        toggles = np.stack([self.starts[part], self.ends[part]], 1).reshape(-1).astype(np.int64)
        return rle._from_toggles(toggles, int(self.heights[i]), int(self.widths[i]))

    def take(self, chosen: Indices) -> Runs:
        """The masks that `chosen` names, in its order."""
        first, at = _gather(self.first, chosen)
        return Runs(self.starts[at], self.ends[at], first, self.heights[chosen], self.widths[chosen])

    @cached_property
    def areas(self) -> Int[np.ndarray, " n"]:
        """Foreground pixels of every mask."""
        return _sums(self.ends - self.starts, self.first)

    @cached_property
    def boxes(self) -> Int[np.ndarray, "n 4"]:
        """Smallest x0 y0 x1 y1 around every mask, ends exclusive; zeros where it is empty."""
        boxes = np.zeros((len(self), 4), np.int64)
        full = np.flatnonzero(np.diff(self.first))
        if not len(full):
            return boxes
        begin, height = self.first[full], self.heights[full]
        heights = np.repeat(self.heights.astype(self.starts.dtype), np.diff(self.first))
        x = self.starts // heights
        top = self.starts - x * heights
        bottom = self.ends - x * heights  # beyond the height where the run goes on in the next column
        y0, y1 = np.minimum.reduceat(top, begin), np.maximum.reduceat(bottom, begin)
        across = y1 > height
        last = self.ends[self.first[full + 1] - 1] - 1
        boxes[full, 0], boxes[full, 2] = x[begin], last // height + 1
        boxes[full, 1], boxes[full, 3] = np.where(across, 0, y0), np.where(across, height, y1)
        return boxes


def _gather(first: Indices, chosen: Indices) -> tuple[Indices, Indices]:
    """Where the chosen segments begin when put one after another, and the places of all their entries."""
    count = first[chosen + 1] - first[chosen]
    begin = np.concatenate([[0], np.cumsum(count)])
    return begin, np.arange(begin[-1]) + np.repeat(first[chosen] - begin[:-1], count)


def _sums(values: Int[np.ndarray, " r"], first: Indices) -> Int[np.ndarray, " n"]:
    """The sum of every segment, empty ones included."""
    out = np.zeros(len(first) - 1, np.int64)
    full = first[1:] > first[:-1]
    if len(values):
        out[full] = np.add.reduceat(values, first[:-1][full])
    return out


def _running(values: Int[np.ndarray, " r"], first: Indices) -> Int[np.ndarray, " r"]:
    """Running sums that begin anew in every segment."""
    total = np.cumsum(values, dtype=values.dtype)  # may wrap around: the differences do not
    before = np.concatenate([np.zeros(1, values.dtype), total])[first[:-1]]
    total -= np.repeat(before, np.diff(first))
    return total


def concat(parts: Sequence[Runs]) -> Runs:
    """The masks of all parts, one part after another."""
    if len(parts) == 1:
        return parts[0]
    counts = np.concatenate([np.diff(part.first) for part in parts]) if parts else np.zeros(0, np.int64)
    fields = ("starts", "ends", "heights", "widths")
    joined = {f: np.concatenate([getattr(p, f) for p in parts]) if parts else np.zeros(0, np.int64) for f in fields}
    return Runs(first=np.concatenate([[0], np.cumsum(counts)]), **joined)


def from_rles(rles: Sequence[RLE]) -> Runs:
    """From masks that are run lengths already."""
    toggles = np.concatenate([np.zeros(0, np.int64), *(item.toggles for item in rles)])
    first = np.concatenate([[0], np.cumsum([len(item.toggles) // 2 for item in rles], dtype=np.int64)])
    heights = np.array([item.height for item in rles], np.int64)
    widths = np.array([item.width for item in rles], np.int64)
    return _without_empty(toggles[::2], toggles[1::2], first, heights, widths)


def _without_empty(starts: Indices, ends: Indices, first: Indices, heights: Indices, widths: Indices) -> Runs:
    kept = ends > starts
    if not kept.all():
        first = np.concatenate([[0], np.cumsum(kept)])[first]
        starts, ends = starts[kept], ends[kept]
    return Runs(starts, ends, first, heights, widths)


_SIGNED = (((np.arange(256) - 48) & 31 ^ 16) - 16).astype(np.int32)  # five bits of a last character, with their sign
_MORE = 80  # characters from here on are not the last of their number


def from_strings(texts: Sequence[Any], heights: Indices, widths: Indices) -> Runs:
    """From COCO's compressed counts, one text for each mask, all str or all bytes; ValueError names a broken one."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    cuts = np.searchsorted(np.cumsum(lengths), np.arange(0, lengths.sum(), _PIECE), side="left")
    bounds = [*dict.fromkeys([0, *cuts.tolist(), len(texts)])]
    parts = []
    for a, b in itertools.pairwise(bounds):
        part = _decode(texts[a:b], lengths[a:b], heights[a:b], widths[a:b])
        parts.append(part if part is not None else _one_by_one(texts[a:b], heights[a:b], widths[a:b], a))
    return concat(parts)


def _one_by_one(texts: Sequence[Any], heights: Indices, widths: Indices, number: int) -> Runs:
    """The slow way for what is unusual, and for the words about what is broken."""
    items = []
    for i, (text, h, w) in enumerate(zip(texts, heights.tolist(), widths.tolist(), strict=True), number):
        try:
            items.append(rle.from_string(text, h, w))
        except ValueError as error:
            raise ValueError(f"mask {i}: {error}") from None
    return from_rles(items)


def _decode(texts: Sequence[Any], lengths: Indices, heights: Indices, widths: Indices) -> Runs | None:
    """`from_strings` of a piece; None where a text is broken or has numbers of more than six characters."""
    joined = b"".join(texts) if isinstance(texts[0], bytes) else "".join(texts).encode("ascii", "replace")
    letters = np.frombuffer(joined, np.uint8)
    stops = np.cumsum(lengths) - 1
    if (
        not len(letters)
        or lengths.min() < 1
        or letters.min() < 48
        or letters.max() > 111
        or len(joined) != stops[-1] + 1
    ):
        return None
    if (letters[stops] >= _MORE).any() or (heights * widths).max() >= 2**31:
        return None
    goes_on = letters >= _MORE
    ends = np.flatnonzero(~goes_on)
    values = _SIGNED[letters[ends]]
    long, k = np.flatnonzero(goes_on[ends - 1]), 1  # before the first character stands the last, which is an end
    while len(long):
        if k > 5:
            return None
        values[long] = values[long] * 32 + ((letters[ends[long] - k] - 48) & 31)
        k += 1
        long = long[goes_on[ends[long] - k]]

    begin = np.concatenate([[0], np.searchsorted(ends, stops) + 1])
    count = np.diff(begin)
    pairs = count // 2  # background and foreground; an odd number at the end is the background that is left
    first, at = np.concatenate([[0], np.cumsum(pairs)]), begin[:-1]
    if (odd := np.flatnonzero(count % 2)).size:
        kept = np.ones(len(values), bool)
        kept[begin[odd + 1] - 1] = False
        both = values[kept].reshape(-1, 2)
    else:
        both = values.reshape(-1, 2)
    background, foreground = np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])
    full = pairs > 0
    background[first[:-1][full]] = 0  # each run is coded as its difference to the run two before, but not to the first
    background = _running(background, first)
    background[first[:-1][full]] = values[at[full]]
    foreground = _running(foreground, first)
    if len(background) and min(background.min(), foreground.min()) < 0:
        return None
    run_ends = _running(background + foreground, first)
    total = np.zeros(len(texts), np.int64)
    total[full] = run_ends[first[1:][full] - 1]
    total[odd] += values[begin[odd + 1] - 1]
    related = odd[count[odd] >= 5]
    total[related] += background[first[related + 1] - 1]
    if (total != heights * widths).any() or (len(run_ends) and run_ends.min() < 0):
        return None
    return _without_empty(run_ends - foreground, run_ends, first, heights, widths)


def from_polygons(objects: Sequence[Sequence[Sequence[int | float]]], heights: Indices, widths: Indices) -> Runs:
    """From COCO's polygons (flat lists x y x y ...), drawn as COCO's tools do: each mask is the union of its rings."""
    for i, rings in enumerate(objects):
        for flat in rings:
            if len(flat) < 6 or len(flat) % 2:
                hint = "COCO polygons are x y x y ..., at least 3 points"
                raise ValueError(f"mask {i}: a polygon has {len(flat)} numbers; {hint}")
    pieces = (slice(k, k + _OBJECTS) for k in range(0, len(objects), _OBJECTS))
    return concat([_draw(objects[piece], heights[piece], widths[piece]) for piece in pieces])


def _draw(objects: Sequence[Sequence[Sequence[int | float]]], heights: Indices, widths: Indices) -> Runs:
    rings = [ring for parts in objects for ring in parts]
    owner = np.repeat(np.arange(len(objects)), [len(parts) for parts in objects])
    lengths = np.fromiter((len(ring) // 2 for ring in rings), np.int64, len(rings))
    points = np.fromiter(itertools.chain.from_iterable(rings), np.float64, 2 * int(lengths.sum())).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("a polygon has a coordinate that is not a finite number")
    position, ring = polygons.crossings(points, lengths, heights[owner], widths[owner])
    base = np.concatenate([[0], np.cumsum((heights * widths)[owner] + 1)])  # every ring has a canvas of its own
    key = np.sort(position + base[ring])
    while len(same := np.flatnonzero(key[1:] == key[:-1])):  # inside and out again at one place
        same = same[np.diff(same, prepend=-2) > 1]
        key = np.delete(key, np.concatenate([same, same + 1]))
    ring = np.searchsorted(base, key[::2], side="right") - 1
    starts, ends, object_ = key[::2] - base[ring], key[1::2] - base[ring], owner[ring]
    many = (np.bincount(owner, minlength=len(objects)) > 1)[object_]
    if many.any():
        united = _union(starts[many], ends[many], object_[many], heights * widths + 1)
        starts, ends, object_ = (
            np.concatenate([one[~many], other]) for one, other in zip((starts, ends, object_), united, strict=True)
        )
        order = np.argsort(object_, kind="stable")
        starts, ends, object_ = starts[order], ends[order], object_[order]
    first = np.concatenate([[0], np.cumsum(np.bincount(object_, minlength=len(objects)))])
    return _without_empty(starts, ends, first, heights, widths)


def _union(starts: Indices, ends: Indices, owner: Indices, sizes: Indices) -> tuple[Indices, Indices, Indices]:
    """Runs of one owner joined where they touch or overlap."""
    base = np.concatenate([[0], np.cumsum(sizes)])
    order = np.argsort(starts + base[owner], kind="stable")
    low, high = (starts + base[owner])[order], np.maximum.accumulate((ends + base[owner])[order])
    new = np.append(True, low[1:] > high[:-1])
    low, high = low[new], high[np.append(new[1:], True)]
    owner = np.searchsorted(base, low, side="right") - 1
    return low - base[owner], high - base[owner], owner


def intersections(a: Runs, b: Runs, i: Indices, j: Indices) -> Int[np.ndarray, " k"]:
    """Pixels that mask `i[k]` of `a` and mask `j[k]` of `b` share, for every k; both must be of one image size."""
    if (a.heights[i] != b.heights[j]).any() or (a.widths[i] != b.widths[j]).any():
        k = int(np.flatnonzero((a.heights[i] != b.heights[j]) | (a.widths[i] != b.widths[j]))[0])
        sizes = f"{a.heights[i[k]]}x{a.widths[i[k]]}, {b.heights[j[k]]}x{b.widths[j[k]]}"
        raise ValueError(f"masks differ in size: {sizes}")
    used, j = np.unique(j, return_inverse=True)
    b = b.take(used)
    # The masks of b lie on one long line, mask after mask; `covered` counts foreground from the beginning of the line.
    base = np.concatenate([[0], np.cumsum(b.heights * b.widths)])
    shift = np.repeat(base[:-1], np.diff(b.first))
    starts, ends = b.starts + shift, np.concatenate([[-1], b.ends + shift])
    covered = np.concatenate([[0], np.cumsum(b.ends - b.starts, dtype=np.int64)])

    def before(position: Indices) -> Indices:
        k = np.searchsorted(starts, position)
        return covered[k] - np.maximum(ends[k] - position, 0)

    out = np.empty(len(i), np.int64)
    runs = np.cumsum(np.diff(a.first)[i])
    cuts = np.searchsorted(runs, np.arange(0, runs[-1] if len(runs) else 0, _PIECE // 4), side="left")
    for low, high in itertools.pairwise([*dict.fromkeys([0, *cuts.tolist(), len(i)])]):
        first, at = _gather(a.first, i[low:high])
        move = np.repeat(base[j[low:high]], np.diff(first))
        out[low:high] = _sums(before(a.ends[at] + move) - before(a.starts[at] + move), first)
    return out


def iou(
    a: Runs, b: Runs, i: Indices, j: Indices, crowd: Bool[np.ndarray, " m"], least: float = 0.0
) -> Float[np.ndarray, " k"]:
    """Overlap of mask `i[k]` of `a` and mask `j[k]` of `b`; of crowds in `b`, intersection over the area of a's mask.

    Pairs whose areas and boxes show that they cannot reach `least` are not looked at; they get 0.
    """
    out, least = np.zeros(len(i)), least * (1 - 1e-9)  # never lose a pair to rounding
    area_a, area_b = a.areas[i], b.areas[j]
    smaller = np.minimum(area_a, area_b)
    whole = np.where(crowd[j], area_a, np.maximum(area_a, area_b))  # of the union, at least
    near = np.flatnonzero((smaller > 0) & (smaller >= least * whole))
    used_a, at_a = np.unique(i[near], return_inverse=True)
    used_b, at_b = np.unique(j[near], return_inverse=True)
    box_a, box_b = a.take(used_a).boxes[at_a], b.take(used_b).boxes[at_b]
    low, high = np.maximum(box_a[:, :2], box_b[:, :2]), np.minimum(box_a[:, 2:], box_b[:, 2:])
    most = np.minimum((high - low).clip(0).prod(1), smaller[near])  # pixels that they can share
    union = np.where(crowd[j[near]], area_a[near], area_a[near] + area_b[near] - most)
    near = near[(most > 0) & (most >= least * union)]
    inter = intersections(a, b, i[near], j[near])
    out[near] = inter / np.where(crowd[j[near]], area_a[near], area_a[near] + area_b[near] - inter)
    return out
