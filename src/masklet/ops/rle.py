"""Masks as run lengths, compatible with COCO: runs of background, foreground, background, ... down the columns.

The canvas of a mask is hardly ever needed: everything here works on the box of the mask or on the runs themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int64, Integer, UInt32
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RLE:
    """One binary mask as run lengths; the first run counts background and may be 0 long."""

    height: int
    width: int
    counts: UInt32[np.ndarray, " runs"]

    @cached_property
    def toggles(self) -> Int[np.ndarray, " n"]:
        """Column-major positions where foreground begins (even entries) and ends (odd entries)."""
        toggles = np.cumsum(self.counts, dtype=np.int64)
        return toggles if len(toggles) % 2 == 0 else toggles[:-1]

    @cached_property
    def area(self) -> int:
        """Number of foreground pixels."""
        return int(self.counts[1::2].sum(dtype=np.int64))

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Smallest x0 y0 x1 y1 around the foreground, ends exclusive; zeros where the mask is empty."""
        starts, ends = self.toggles[::2], self.toggles[1::2]
        starts, last = starts[ends > starts], ends[ends > starts] - 1
        if not len(starts):
            return 0, 0, 0, 0
        x0, x1 = int(starts[0]) // self.height, int(last[-1]) // self.height + 1
        if (starts // self.height != last // self.height).any():  # a run goes on in the next column
            return x0, 0, x1, self.height
        return x0, int((starts % self.height).min()), x1, int((last % self.height).max()) + 1

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RLE):
            return NotImplemented
        same_size = (self.height, self.width) == (other.height, other.width)
        return same_size and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.height, self.width, self.counts.tobytes()))


def from_toggles(
    toggles: Int64[np.ndarray, " t"], starts: Int64[np.ndarray, " n1"], height: int, width: int
) -> list[RLE]:
    """Masks from the column-major positions where their foreground begins and ends, in order, mask after mask.

    Those of mask i are `toggles[starts[i] : starts[i + 1]]`; two at one position cancel.
    """
    n, size = len(starts) - 1, height * width
    owner = np.repeat(np.arange(n), np.diff(starts))
    codes = toggles + owner * (size + 1)
    if len(kept := _uncancelled(codes)) < len(codes):
        owner, toggles = owner[kept], toggles[kept]
        starts = np.searchsorted(owner, np.arange(n + 1))
    first = starts[:-1] + 2 * np.arange(n)  # each mask has its toggles between 0 and the size of the image
    last = starts[1:] + 2 * np.arange(n) + 1
    bounds = np.zeros(len(toggles) + 2 * n, np.int64)
    bounds[last] = size
    bounds[np.arange(len(toggles)) + 2 * owner + 1] = toggles
    runs = np.diff(bounds, append=0).astype(np.uint32)
    runs.flags.writeable = False
    last -= (last - first > 1) & (bounds[last - 1] == size)  # no empty run at the end
    return [RLE(height, width, runs[a:b]) for a, b in zip(first.tolist(), last.tolist(), strict=True)]


def _from_toggles(toggles: Int64[np.ndarray, " t"], height: int, width: int) -> RLE:
    return from_toggles(toggles, np.array([0, len(toggles)]), height, width)[0]


def _uncancelled(codes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """Indices of sorted numbers that occur an odd number of times, one for each."""
    change = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    if len(change) + 1 >= len(codes):
        return np.arange(len(codes))
    first = np.append(0, change)
    return first[np.diff(first, append=len(codes)) % 2 == 1]


def _array(mask: Tensor | np.ndarray) -> np.ndarray:
    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if array.dtype != np.bool_:
        raise ValueError(f"masks are bool, this one is {array.dtype}; threshold it first")
    return array


def _bounds(lines: Bool[np.ndarray, " n"]) -> tuple[int, int]:
    first = int(lines.argmax())
    return (first, len(lines) - int(lines[::-1].argmax())) if lines[first] else (0, 0)


def from_crop(crop: Tensor | np.ndarray, x0: int, y0: int, height: int, width: int) -> RLE:
    """Run lengths of a small mask that sits at (x0, y0) of a height x width image, which is never made."""
    return from_crops([crop], [(x0, y0)], height, width)[0]


def from_crops(
    crops: Iterable[Tensor | np.ndarray], corners: Iterable[tuple[int, int]], height: int, width: int
) -> list[RLE]:
    """Run lengths of small masks that sit with their corners at (x0, y0) of one height x width image."""
    parts = [_toggles(_array(crop), x0, y0, height, width) for crop, (x0, y0) in zip(crops, corners, strict=True)]
    starts = np.cumsum([0, *map(len, parts)])
    return from_toggles(np.concatenate([np.empty(0, np.int64), *parts]), starts, height, width)


def _toggles(crop: np.ndarray, x0: int, y0: int, height: int, width: int) -> Int64[np.ndarray, " t"]:
    """Positions in the image at which the columns of a crop begin and end to be foreground, sorted."""
    if crop.ndim != 2:
        raise ValueError(f"a crop has two axes, this one has shape {crop.shape}")
    h, w = crop.shape
    if x0 < 0 or y0 < 0 or x0 + w > width or y0 + h > height:
        raise ValueError(f"a {h}x{w} crop at x={x0}, y={y0} leaves the {height}x{width} image; clip it first")
    stride = -(-w // 8) * 8
    padded = np.zeros((h + 2, stride), np.uint8)
    padded[1:-1, :w] = crop
    edges = (padded[1:] ^ padded[:-1]).reshape(-1, 8)
    words = np.flatnonzero(edges.view(np.uint64))  # eight pixels at a time: edges are rare
    word, byte = np.nonzero(edges[words])
    y, x = np.divmod(words[word] * 8 + byte, max(stride, 1))
    return np.sort((x + x0) * height + (y + y0))


def encode(mask: Tensor | np.ndarray) -> RLE:
    """Run lengths of one bool (h, w) mask."""
    mask = _array(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask has two axes, this one has shape {mask.shape}; use encode_many for a stack")
    return encode_many(mask[None])[0]


def encode_many(masks: Tensor | np.ndarray) -> list[RLE]:
    """Run lengths of every mask in a bool (n, h, w) stack."""
    masks = _array(masks)
    if masks.ndim != 3:
        raise ValueError(f"a stack of masks has three axes, this one has shape {masks.shape}")
    boxes = [_box(mask) for mask in masks]
    crops = (mask[y0:y1, x0:x1] for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True))
    return from_crops(crops, [box[:2] for box in boxes], *masks.shape[1:])


def from_ids(ids: Integer[np.ndarray, "h w"]) -> tuple[Int64[np.ndarray, " n"], list[RLE]]:
    """The numbers above 0 that an id map holds, rising, and the run lengths of each, in one pass."""
    height, width = ids.shape
    columns = ids.T.reshape(-1)
    starts = np.flatnonzero(np.append(columns.size > 0, columns[1:] != columns[:-1]))
    ends, owner = np.append(starts[1:], columns.size)[: len(starts)], columns[starts].astype(np.int64)
    if len(owner) and owner.min() < 0:
        raise ValueError(f"an id map holds {owner.min()}; ids are 0 (background) and above")
    order = np.argsort(owner, kind="stable")
    order = order[owner[order] > 0]
    numbers, first = np.unique(owner[order], return_index=True)
    toggles = np.stack([starts[order], ends[order]], 1).reshape(-1)
    return numbers, from_toggles(toggles, 2 * np.append(first, len(order)), height, width)


def _box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    y0, y1 = _bounds(np.asarray(mask.any(1)))
    x0, x1 = _bounds(np.asarray(mask[y0:y1].any(0)))
    return x0, y0, x1, y1


def crop(rle: RLE) -> tuple[Bool[np.ndarray, "h w"], int, int]:
    """The mask inside its box, with the corner (x0, y0) where the box begins."""
    x0, y0, x1, y1 = rle.box
    w, h, stride = x1 - x0, y1 - y0, -(-(x1 - x0) // 8) * 8
    edges = np.zeros((h + 1, stride), np.uint8)  # one row more: runs may end below the box
    x, y = np.divmod(rle.toggles, rle.height)
    inside = (y >= y0) & (x < x1)  # a run that ends at the bottom ends, as written, at the top of the next column
    flips = (y[inside] - y0) * stride + (x[inside] - x0)
    if y0 == 0 and h == rle.height:  # runs may cross columns: those columns begin as foreground
        before = np.searchsorted(rle.toggles, np.arange(x0, x1) * rle.height)
        flips = np.concatenate([flips, np.flatnonzero(before % 2)])
    if len(flips) > 1 and _repeats(rle):
        flips, times = np.unique(flips, return_counts=True)
        flips = flips[times % 2 == 1]
    edges.reshape(-1)[flips] ^= 1
    np.bitwise_xor.accumulate(edges.view(np.uint64), axis=0, out=edges.view(np.uint64))
    return edges[:h, :w].view(np.bool_), x0, y0


def _repeats(rle: RLE) -> bool:
    return not rle.counts[1:].all() or rle.box[3] - rle.box[1] == rle.height


def decode(rle: RLE) -> Bool[np.ndarray, "h w"]:
    """The mask at full size."""
    return decode_many([rle], rle.height, rle.width)[0]


def decode_many(rles: Sequence[RLE], height: int, width: int) -> Bool[np.ndarray, "n h w"]:
    """All masks at full size, one above another."""
    masks = np.zeros((len(rles), height, width), np.bool_)
    for mask, rle in zip(masks, rles, strict=True):
        part, x0, y0 = crop(rle)
        mask[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
    return masks


def to_string(rle: RLE) -> str:
    """COCO's compressed counts: each run as its difference to the run two before, five bits to a character."""
    return to_strings([rle])[0]


def to_strings(rles: Sequence[RLE]) -> list[str]:
    """Compressed counts of many masks at once."""
    if not rles:
        return []
    runs = np.concatenate([rle.counts for rle in rles]).astype(np.int64)
    ends = np.cumsum([len(rle.counts) for rle in rles])
    starts = np.concatenate([[0], ends[:-1]])
    delta = runs.copy()
    delta[2:] -= runs[:-2]
    first = (starts[:, None] + np.arange(3))[np.arange(3) < (ends - starts)[:, None]]
    delta[first] = runs[first]
    length = np.ones(len(delta), np.int64)
    long, rest = np.arange(len(delta)), delta >> 4
    while len(long := long[more := (rest != 0) & (rest != -1)]):  # the sign does not fit yet: one character more
        length[long] += 1
        rest = rest[more] >> 5
    stops = np.cumsum(length)
    letters = np.empty(stops[-1], np.uint8)
    at, place = np.arange(len(delta)), 0
    while len(at := at[length[at] > place]):
        letters[stops[at] - length[at] + place] = (delta[at] >> 5 * place & 31) + 32 * (length[at] > place + 1) + 48
        place += 1
    text, cuts = letters.tobytes().decode("ascii"), [0, *stops[ends - 1].tolist()]
    return [text[a:b] for a, b in itertools.pairwise(cuts)]


def from_string(counts: str | bytes, height: int, width: int) -> RLE:
    """Run lengths from COCO's compressed counts; the exact inverse of `to_string`."""
    raw = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    letters = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        raise ValueError("these are not COCO's compressed RLE counts (a character is missing or not of the alphabet)")
    ends = np.flatnonzero(letters & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts + 1
    if length.max() > 7:
        raise ValueError("these are not COCO's compressed RLE counts (a run is longer than 32 bits)")
    place = np.arange(len(letters)) - np.repeat(starts, length)
    runs = np.add.reduceat((letters & 31) << 5 * place, starts) - (((letters[ends] & 16) > 0) << 5 * length)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return from_counts(runs, height, width)


def from_counts(counts: Iterable[int] | np.ndarray, height: int, width: int) -> RLE:
    """Run lengths from a plain list of counts, which must fill the image exactly."""
    runs = np.asarray(counts if isinstance(counts, np.ndarray) else list(counts))
    if runs.ndim != 1 or (len(runs) and runs.dtype.kind not in "iu"):
        raise ValueError("RLE counts are a flat list of whole numbers")
    if len(runs) and runs.min() < 0:
        raise ValueError(f"RLE counts must not be negative, but one is {runs.min()}")
    if (total := int(runs.sum())) != height * width:
        raise ValueError(f"RLE counts add up to {total} pixels, but {height}x{width} has {height * width}")
    runs = runs.astype(np.uint32)
    runs.flags.writeable = False
    return RLE(height, width, runs)


def to_coco(rle: RLE) -> dict[str, object]:
    """The JSON form of COCO: {"size": [height, width], "counts": "..."}."""
    return {"size": [rle.height, rle.width], "counts": to_string(rle)}


def from_coco(segmentation: Mapping[str, object]) -> RLE:
    """From COCO's JSON form, compressed (text) or not (list of counts)."""
    try:
        height, width = (int(side) for side in segmentation["size"])  # type: ignore[attr-defined]
        counts: Any = segmentation["counts"]
    except (KeyError, TypeError, ValueError):
        raise ValueError('a COCO RLE is {"size": [height, width], "counts": ...}') from None
    if isinstance(counts, str | bytes):
        return from_string(counts, height, width)
    return from_counts(counts, height, width)


def area(rles: Sequence[RLE]) -> Int[np.ndarray, " n"]:
    """Foreground pixels of every mask."""
    return np.array([rle.area for rle in rles], np.int64)


def boxes(rles: Sequence[RLE]) -> Float[np.ndarray, "n 4"]:
    """Smallest x0 y0 x1 y1 around every mask, ends exclusive; zeros where a mask is empty."""
    return np.array([rle.box for rle in rles], np.float64).reshape(-1, 4)


def merge(rles: Sequence[RLE], intersect: bool = False) -> RLE:
    """Union (or intersection) of masks of one size."""
    if not rles:
        raise ValueError("nothing to merge: give at least one mask")
    height, width = _same_size(rles)
    toggles = np.concatenate([rle.toggles for rle in rles])
    step = np.concatenate([np.resize(np.array([1, -1]), len(rle.toggles)) for rle in rles])
    order = np.argsort(toggles, kind="stable")
    position, last = toggles[order], np.append(np.diff(toggles[order]) > 0, True)[: len(toggles)]
    depth = np.cumsum(step[order])[last]  # how many masks cover the pixels from here on
    inside = depth >= (len(rles) if intersect else 1)
    changed = np.diff(inside, prepend=False) != 0
    return _from_toggles(position[last][changed], height, width)


def iou(a: Sequence[RLE], b: Sequence[RLE], crowd: Sequence[bool] | None = None) -> Float[np.ndarray, "n m"]:
    """Overlap of every mask in `a` with every mask in `b`; where `crowd` is set for b, intersection over area of a."""
    table = np.zeros((len(a), len(b)))
    if not len(a) or not len(b):
        return table
    _same_size([*a, *b])
    area_a, area_b = area(a).astype(float), area(b).astype(float)
    box_a, box_b = boxes(a), boxes(b)
    lengths = np.array([len(rle.toggles) for rle in a])
    for j, other in enumerate(b):
        touch = ((box_a[:, :2] < box_b[j, 2:]) & (box_b[j, :2] < box_a[:, 2:])).all(1)
        near = np.flatnonzero(touch & (lengths > 0))
        if not len(near):
            continue
        # covered(p) = foreground pixels of b before position p: a broken line, so one interpolation serves all runs
        covered = np.repeat(np.append(0, np.cumsum(other.counts[1::2], dtype=np.int64)), 2)[1:]
        points = np.concatenate([a[i].toggles for i in near.tolist()])
        below = np.interp(points, other.toggles, covered[: len(other.toggles)])
        first = np.concatenate([[0], np.cumsum(lengths[near] // 2)[:-1]])
        inter = np.add.reduceat(below[1::2] - below[::2], first)
        union = area_a[near] if crowd is not None and crowd[j] else area_a[near] + area_b[j] - inter
        table[near, j] = inter / union
    return table


def _same_size(rles: Sequence[RLE]) -> tuple[int, int]:
    sizes = {(rle.height, rle.width) for rle in rles}
    if len(sizes) > 1:
        raise ValueError("masks differ in size: " + ", ".join(f"{h}x{w}" for h, w in sorted(sizes)))
    return sizes.pop()
