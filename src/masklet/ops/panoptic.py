"""Id maps: how many pixels each pair of segments shares. Every panoptic and tube score starts from this table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer


class Overlaps(NamedTuple):
    """Pairs of ids that share pixels, ordered by the first id, then by the second."""

    first: Int64[np.ndarray, " n"]
    second: Int64[np.ndarray, " n"]
    pixels: Int64[np.ndarray, " n"]


def overlaps(first: Integer[np.ndarray, "*shape"], second: Integer[np.ndarray, "*shape"]) -> Overlaps:
    """How many pixels carry id i in one map and id j in the other, for all pairs (i, j) that occur.

    Works for images (H, W) and for clips (T, H, W) whose tubes keep their ids. No id is special, 0 neither. The
    pixels of a segment are sums over the result (`areas`), so no further pass over the maps is needed.
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


def areas(ids: Int64[np.ndarray, " n"], pixels: Int64[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """The different ids of one side of `overlaps`, in order, and the pixels of each in its whole map."""
    unique, place = np.unique(ids, return_inverse=True)
    return unique, np.bincount(place, weights=pixels, minlength=len(unique)).astype(np.int64)
