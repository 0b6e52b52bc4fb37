"""What a mask head should answer: the true mask of an object, cut out by a proposal and brought to the head's size.

The zoos differ: detectron2 draws the polygon anew inside the box, or samples the bitmap and cuts at a half, as mmdet
does; torchvision samples the bitmap half a pixel away and keeps the fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from masklet.ops import polygons, roi
from masklet.ops.polygons import Ring

AT_ONCE = 1 << 24  # pixels of bitmaps held as numbers at a time


def from_polygons(objects: Sequence[Sequence[Ring]], boxes: Float[Tensor, "n 4"], size: int) -> Bool[Tensor, "n s s"]:
    """Each object's rings moved and stretched as its box is to `size` x `size`, then drawn as COCO's tools draw them.

    Several rings of an object are united. A side of a box counts as .1 pixels at least. Source: detectron2
    `rasterize_polygons_within_box`.
    """
    _check(objects, len(boxes), size)
    corner, sides = boxes[:, :2].detach().cpu().numpy(), (boxes[:, 2:] - boxes[:, :2]).detach().cpu().numpy()
    points, owner = _points(objects)
    points = (points - corner[owner]) * (size / np.maximum(sides, 0.1).astype(np.float64))[owner]
    return _drawn(objects, points, size).to(boxes.device)


def from_polygons_rotated(
    objects: Sequence[Sequence[Ring]], boxes: Float[Tensor, "n 5"], size: int
) -> Bool[Tensor, "n s s"]:
    """The same for rotated boxes (cx cy w h degrees): the rings in the frame of the box, which stands upright."""
    _check(objects, len(boxes), size)
    cx, cy, w, h, degrees = boxes.detach().cpu().numpy().astype(np.float64).T
    points, owner = _points(objects)
    x, y = (points - np.stack([cx, cy], 1)[owner]).T
    cos, sin = np.cos(np.radians(degrees))[owner], np.sin(np.radians(degrees))[owner]
    turned = np.stack([x * cos - y * sin, x * sin + y * cos], 1)
    points = (turned / np.maximum(np.stack([w, h], 1), 0.1)[owner] + 0.5) * size
    return _drawn(objects, points, size).to(boxes.device)


def _points(objects: Sequence[Sequence[Ring]]) -> tuple[Float[np.ndarray, "p 2"], Int64[np.ndarray, " p"]]:
    """All points of all rings, and the object that each belongs to."""
    rings = [np.asarray(ring, np.float64) for rings in objects for ring in rings]
    owner = np.repeat(np.arange(len(objects)), [sum(map(len, rings)) for rings in objects])
    return np.concatenate([np.zeros((0, 2)), *rings]), owner


def _drawn(objects: Sequence[Sequence[Ring]], points: Float[np.ndarray, "p 2"], size: int) -> Bool[Tensor, "n s s"]:
    """The union of the rings of each object, whose points came to lie at `points`."""
    n, canvas = len(objects), size * size + 1  # a ring may end behind its last pixel
    owner = np.repeat(np.arange(n), [len(rings) for rings in objects])
    masks = np.zeros((n, size * size), np.bool_)
    if len(owner):
        lengths = np.array([len(ring) for rings in objects for ring in rings])
        side = np.full(len(owner), size)
        position, ring = polygons.crossings(points, lengths, side, side)
        toggles = np.bincount(ring * canvas + position, minlength=len(owner) * canvas).reshape(-1, canvas)
        inside = np.bitwise_xor.accumulate(toggles.astype(np.uint8) & 1, axis=1)[:, :-1].astype(np.bool_)
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        masks[owner[first]] = np.logical_or.reduceat(inside, first, axis=0)
    columns = torch.from_numpy(masks).view(n, size, size)  # COCO counts down the columns
    return columns.transpose(1, 2).contiguous()


def _check(objects: Sequence[Sequence[Ring]], boxes: int, size: int) -> None:
    if boxes != len(objects):
        raise ValueError(f"{len(objects)} objects but {boxes} boxes; give one box for each object")
    if size < 1:
        raise ValueError(f"cannot draw masks of {size}x{size}; the side needs at least one pixel")
    for i, rings in enumerate(objects):
        if short := [len(ring) for ring in rings if len(ring) < 3]:
            raise ValueError(f"object {i}: a polygon needs at least 3 points, this one has {short[0]}")


Bitmaps = Bool[Tensor, "g h w"] | Float[Tensor, "g h w"]


@dataclass(frozen=True)
class BitmapTargets:
    """Targets from true masks as pixels: RoIAlign of the bitmap, cut at `threshold` or, without one, left as shares."""

    aligned: bool
    threshold: float | None

    def __call__(self, masks: Bitmaps, rois: Float[Tensor, "n 5"], size: int) -> Float[Tensor, "n s s"]:
        """For each row, number of a mask and x0 y0 x1 y1, the part of the mask in the box, 0..1, at `size` x `size`.

        Outside the image there is no mask.
        """
        which = _numbers(rois, len(masks))
        out = rois.new_zeros(len(rois), size, size)
        step = max(1, AT_ONCE // max(1, masks[:1].numel()))
        for begin in range(0, len(masks), step):
            here = ((which >= begin) & (which < begin + step)).nonzero().flatten()
            if len(here):
                part = masks[begin : begin + step, None].to(rois.dtype)
                shifted = torch.cat([(which[here] - begin)[:, None].to(rois.dtype), rois[here, 1:]], 1)
                out[here] = roi.roi_align(part, shifted, size, 1.0, aligned=self.aligned)[:, 0]
        return out if self.threshold is None else (out >= self.threshold).to(out.dtype)


DETECTRON2 = BitmapTargets(aligned=True, threshold=0.5)  # mmdet's `crop_and_resize` is the same
TORCHVISION = BitmapTargets(aligned=False, threshold=None)


def from_bitmaps_rotated(masks: Bitmaps, rois: Float[Tensor, "n 6"], size: int) -> Float[Tensor, "n s s"]:
    """For each row, number of a mask and cx cy w h degrees, the part of the mask in the box, upright, as 0 or 1."""
    _numbers(rois, len(masks))
    return (roi.rotated_roi_align(masks[:, None].to(rois.dtype), rois, size, 1.0)[:, 0] >= 0.5).to(rois.dtype)


def _numbers(rois: Tensor, count: int) -> Int64[Tensor, " n"]:
    which = rois[:, 0].long()
    if len(which) and not 0 <= int(which.min()) <= int(which.max()) < count:
        raise ValueError(f"boxes name masks {int(which.min())}..{int(which.max())}, but there are {count}")
    return which
