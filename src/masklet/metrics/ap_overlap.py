"""How much a found object agrees with a true one, for lists of pairs: boxes, masks, boundaries of masks, keypoints.

`overlap(found, truth, i, j, least)` is the agreement of found object `i[k]` with true object `j[k]` for every k; values
below `least` may come out as 0. Crowds (in `truth`) are measured by the share of the found object that lies in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int

from masklet.ops import rle, runs
from masklet.ops.masks import boundary
from masklet.ops.runs import Runs
from masklet.structures.errors import UserError
from masklet.structures.objects import Objects

Indices = Int[np.ndarray, " _"]
Values = Float[np.ndarray, " _"]
Overlap = Callable[[Objects, Objects, Indices, Indices, float], Values]

COCO_SIGMAS = (0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
               0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089)  # fmt: skip


def box_overlap(found: Objects, truth: Objects, i: Indices, j: Indices, least: float = 0.0) -> Values:
    """Intersection over union of boxes (pycocotools' `bbIou`)."""
    if found.boxes is None or truth.boxes is None:
        raise _lacks("boxes", found.boxes is None)
    (x, y, w, h), (gx, gy, gw, gh) = found.boxes[i].T, truth.boxes[j].T
    width = np.minimum(x + w, gx + gw) - np.maximum(x, gx)
    height = np.minimum(y + h, gy + gh) - np.maximum(y, gy)
    inter = width.clip(0) * height.clip(0)
    area = w * h
    union = np.where(_crowd(truth)[j], area, area + gw * gh - inter)
    return np.divide(inter, union, out=np.zeros(len(i)), where=(width > 0) & (height > 0))


def mask_overlap(found: Objects, truth: Objects, i: Indices, j: Indices, least: float = 0.0) -> Values:
    """Intersection over union of masks, from their run lengths (pycocotools' `rleIou`)."""
    if found.masks is None or truth.masks is None:
        raise _lacks("masks", found.masks is None)
    return runs.iou(found.masks, truth.masks, i, j, _crowd(truth), least)


def boundary_overlap(found: Objects, truth: Objects, i: Indices, j: Indices, least: float = 0.0) -> Values:
    """The lower of mask IoU and boundary IoU (Cheng et al., 2021): pixels up to 2 % of the diagonal from the edge."""
    out = mask_overlap(found, truth, i, j, least)
    near = np.flatnonzero((out > 0) & (out >= least))
    assert found.masks is not None
    assert truth.masks is not None
    (used_i, at_i), (used_j, at_j) = (np.unique(side[near], return_inverse=True) for side in (i, j))
    edges = runs.iou(_edges(found.masks, used_i), _edges(truth.masks, used_j), at_i, at_j, _crowd(truth)[used_j], least)
    out[near] = np.minimum(out[near], edges)
    return out


def _edges(masks: Runs, chosen: Indices, ratio: float = 0.02) -> Runs:
    """The pixels of each mask that are near its boundary; the border of the image is a boundary too."""
    out = []
    for k in chosen.tolist():
        item = masks[k]
        part, x0, y0 = rle.crop(item)
        width = max(1, round(ratio * math.hypot(item.height, item.width)))
        edge = boundary(torch.from_numpy(np.ascontiguousarray(part))[None], width)[0] if part.size else part
        out.append(rle.from_crop(edge, x0, y0, item.height, item.width))
    return runs.from_rles(out)


def keypoint_overlap(sigmas: tuple[int | float, ...] = COCO_SIGMAS) -> Overlap:
    """Object keypoint similarity with these sigmas, COCO's where not given (its `computeOks`)."""

    def overlap(found: Objects, truth: Objects, i: Indices, j: Indices, least: float = 0.0) -> Values:
        if found.keypoints is None or truth.keypoints is None:
            raise _lacks("keypoints", found.keypoints is None)
        kinds = {points.shape[1] for points, side in ((found.keypoints, i), (truth.keypoints, j)) if len(side)}
        if kinds - {len(sigmas)}:
            message = f"objects have {(kinds - {len(sigmas)}).pop()} keypoints but there are {len(sigmas)} sigmas"
            raise UserError(message, hint="give one sigma for each keypoint")
        if truth.boxes is None:
            raise _lacks("boxes", False)
        labelled = truth.keypoints[..., 2] > 0
        number = labelled.sum(1)
        spread = (np.array(sigmas) * 2) ** 2
        out = np.empty(len(i))
        for n in np.unique(number[j]).tolist():  # a sum of n terms rounds as theirs
            at = np.flatnonzero(number[j] == n)
            p, q = found.keypoints[i[at], :, :2], truth.keypoints[j[at], :, :2]
            if n:
                off = p - q
            else:  # nothing is labelled: how far outside of the box, doubled in size, the points lie
                x, y, w, h = truth.boxes[j[at], None].transpose(2, 0, 1)
                low, high = np.stack([x - w, y - h], -1), np.stack([x + w * 2, y + h * 2], -1)
                off = (low - p).clip(0) + (p - high).clip(0)
            error = (off**2).sum(-1) / spread / (truth.areas[j[at], None] + np.spacing(1)) / 2
            if n:
                error = error[labelled[j[at]]].reshape(-1, n)
            out[at] = np.exp(-error).sum(1) / error.shape[1]
        return out

    return overlap


def _crowd(truth: Objects) -> np.ndarray:
    return np.zeros(len(truth), bool) if truth.crowd is None else truth.crowd


def _lacks(what: str, found: bool) -> UserError:
    side = "the predictions have" if found else "the truth has"
    return UserError(f"{side} no {what}", hint="score what both sides have, or choose another iou_type")
