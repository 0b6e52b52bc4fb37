"""Small mask probabilities put back into the boxes they came from, as run lengths; the canvas is never made.

Resized bilinearly, a mask is a straight line between two neighbouring rows of probabilities along every column of the
image, so where the line crosses the threshold can be computed: no pixel is looked at, and the crossings are the runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from masklet.ops import rle
from masklet.ops.rle import RLE

FAR = 2.0**31  # pixels; coordinates beyond are as good as here


@dataclass(frozen=True)
class Span:
    """Where each of n masks lies along one axis: its pixels, and the row of probabilities at the middle of each.

    Rows are counted with the one of zeros that is laid around a mask, so the first probability is row 1. Pixel i is at
    row (i + 0.5 - start) * scale - offset.
    """

    first: Int64[np.ndarray, " n"]  # the first pixel
    end: Int64[np.ndarray, " n"]  # the last pixel + 1; not above `first` where there is none
    start: Float64[np.ndarray, " n"]
    scale: Float64[np.ndarray, " n"]
    offset: float

    def clipped(self, size: int) -> Span:
        """Only the pixels of an image `size` wide."""
        first, end = self.first.clip(0, size), self.end.clip(0, size)
        return Span(first, np.maximum(first, end), self.start, self.scale, self.offset)


Placement = Callable[[Float[Tensor, "n 2"], int, int], Span]


def continuous(ends: Float[Tensor, "n 2"], cells: int, side: int) -> Span:
    """A box covers exactly its part of the plane, and pixels are points: detectron2 and mmdet.

    At a pixel's middle the probabilities are interpolated, and outside of them they fall to 0 within one cell; one
    pixel around the box is looked at. A box without extent has no pixels. Source: detectron2
    `layers.mask_ops.paste_masks_in_image`.
    """
    low, high = _numbers(ends)
    extent = high - low
    real = extent > 0
    scale = np.divide(cells, extent, where=real, out=np.zeros_like(extent))
    first, end = np.floor(low) - 1, np.ceil(high) + 1
    return Span(first.astype(np.int64), np.where(real, end, first).astype(np.int64), low, scale, -0.5)


def whole_pixels(ends: Float[Tensor, "n 2"], cells: int, side: int) -> Span:
    """A box grows by a cell on each side, is cut to whole numbers, and includes its last pixel: torchvision.

    Even a box without extent has one pixel. Source: torchvision `models.detection.roi_heads.paste_masks_in_image`.
    """
    grown = (side + 2) / side  # from the width of a mask for both axes, as the source does it
    half, middle = (ends[:, 1] - ends[:, 0]) * 0.5 * grown, (ends[:, 1] + ends[:, 0]) * 0.5
    low, high = (np.trunc(x) for x in _numbers(middle[:, None] + half[:, None] * half.new_tensor([-1, 1])))
    extent = np.maximum(high - low + 1, 1)
    return Span(low.astype(np.int64), (high + 1).astype(np.int64), low, (cells + 2) / extent, 0.5)


def _numbers(ends: Float[Tensor, "n 2"]) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Both ends of every box along an axis; what is not a number becomes a box without pixels."""
    values = ends.detach().cpu().numpy().astype(np.float64)
    values[np.isnan(values).any(1)] = -FAR
    low, high = values.clip(-FAR, FAR).T
    return low, high


def paste(
    probs: Float[Tensor, "n h w"],
    boxes: Float[Tensor, "m 4"],
    size: tuple[int, int],
    threshold: float = 0.5,
    placement: Placement = continuous,
) -> list[RLE]:
    """Masks of a (height, width) image: each map of probabilities resized into its box, where it is >= `threshold`.

    `boxes` are x0 y0 x1 y1 in pixels of that image and may reach outside. `placement` says how a box meets the pixels:
    `continuous` (detectron2, mmdet) or `whole_pixels` (torchvision). Time and memory grow with the width of the boxes
    times h, not with their area: 100 masks of 28x28 in a 1080p image take milliseconds.
    """
    n, h, w = probs.shape
    height, width = size
    if len(boxes) != n:
        raise ValueError(f"{n} masks but {len(boxes)} boxes; give one box for each mask")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; choose one above 0, where the surroundings are, and up to 1")
    if not n or not min(h, w, height, width):
        return rle.from_toggles(np.empty(0, np.int64), np.zeros(n + 1, np.int64), height, width)
    grid = np.zeros((n, w + 2, h + 2), np.float32)  # column by column, as the runs go, in a frame of zeros
    grid[:, 1:-1, 1:-1] = probs.detach().float().cpu().numpy().transpose(0, 2, 1)
    across = placement(boxes[:, 0::2], w, w).clipped(width)
    down = placement(boxes[:, 1::2], h, w).clipped(height)

    # Every column of pixels of every mask that has rows too, mask after mask.
    count = np.where(down.end > down.first, across.end - across.first, 0)
    owner = np.repeat(np.arange(n), count)
    x = np.arange(len(owner)) + np.repeat(across.first - np.cumsum(count) + count, count)
    at = ((x + 0.5 - across.start[owner]) * across.scale[owner] - across.offset).clip(0, w + 1)
    left = np.minimum(at.astype(np.int64), w)
    lines, weight = grid.reshape(-1, h + 2), (at - left).astype(np.float32)[:, None]
    base = owner * (w + 2) + left
    columns = lines[base]
    columns += (lines[base + 1] - columns) * weight

    # Between which two rows a column crosses the threshold, and the first pixel beyond.
    inside = columns >= threshold
    flat = np.flatnonzero(inside[:, 1:] != inside[:, :-1])
    column, row = np.divmod(flat, h + 1)
    before, after = columns[column, row].astype(np.float64), columns[column, row + 1].astype(np.float64)
    mask = owner[column]
    crossing = row + (threshold - before) / (after - before)
    y = (crossing + down.offset) / down.scale[mask] + down.start[mask] - 0.5
    y = np.where(after > before, np.ceil(y), np.floor(y) + 1)  # a value of just the threshold is inside
    y = np.clip(y, down.first[mask], down.end[mask]).astype(np.int64)
    ends = np.searchsorted(mask, np.arange(n + 1))
    return rle.from_toggles(x[column] * height + y, ends, height, width)
