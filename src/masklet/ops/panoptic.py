"""Id maps: how many pixels each pair of segments shares, and which pairs belong together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, Integer


class Overlaps(NamedTuple):
    """Pairs of ids that share pixels, ordered by the first id, then by the second."""

    first: Int64[np.ndarray, " n"]
    second: Int64[np.ndarray, " n"]
    pixels: Int64[np.ndarray, " n"]


def overlaps(first: Integer[np.ndarray, "*shape"], second: Integer[np.ndarray, "*shape"]) -> Overlaps:
    """How many pixels carry id i in one map and id j in the other, for all pairs (i, j) that occur.

    Works for images (H, W) and for clips (T, H, W) whose tubes keep their ids. No id is special, 0 neither. The
    pixels of a segment are sums over the result, so no further pass over the maps is needed.
    """
    a, b = np.ravel(first), np.ravel(second)
    if not len(a):
        none = np.zeros(0, np.int64)
        return Overlaps(none, none, none)
    change = np.empty(len(a), bool)  # segments are runs: only where either map changes is there anything to count
    change[0] = True
    np.not_equal(a[1:], a[:-1], out=change[1:])
    change[1:] |= b[1:] != b[:-1]
    starts = np.flatnonzero(change)
    lengths = np.diff(starts, append=len(a))
    a, b = a[starts].astype(np.int64), b[starts].astype(np.int64)
    if min(a.min(), b.min()) >= 0 and max(a.max(), b.max()) < 2**31:
        order = np.argsort(a << 32 | b, kind="stable")
    else:
        order = np.lexsort((b, a))
    a, b = a[order], b[order]
    new = np.flatnonzero(np.concatenate(([True], (a[1:] != a[:-1]) | (b[1:] != b[:-1]))))
    return Overlaps(a[new], b[new], np.add.reduceat(lengths[order], new))


def match(iou: Float[np.ndarray, "t p"], threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs that belong together, every segment at most once.

    From 0.5 on these are all pairs with IoU > threshold: of segments that do not overlap each other, no two can both
    cover more than half of a third. Below 0.5 they are pairs with threshold <= IoU, not 0, such that the sum of their
    IoUs is the largest possible (maximum-weight bipartite matching; Kirillov et al., 2019, sec. 4.1).
    """
    if threshold >= 0.5:
        rows, columns = np.nonzero(iou > threshold)
        return rows, columns
    from scipy.optimize import linear_sum_assignment  # slow to import and rarely needed

    weights = np.where(iou >= threshold, iou, 0.0)
    rows, columns = linear_sum_assignment(weights, maximize=True)
    kept = weights[rows, columns] > 0
    return rows[kept], columns[kept]
