"""Which found object is which true object, by COCO's rules, for thousands of images at once.

In each image and class the found objects choose in order of score: the best overlapping true object that is still
free, those that count before those to ignore; at each IoU threshold and area range separately. Here every
(image, class) takes its next step at the same time, and all thresholds and ranges are bits of one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt64

from masklet.metrics.ap_overlap import Overlap
from masklet.structures.objects import Objects

Indices = Int[np.ndarray, " _"]
_BITS = 64


@dataclass(frozen=True, eq=False)
class Matched:
    """What became of the found objects of some images, best score first in each image and class.

    Bit a * T + t of `hits` belongs to area range a and IoU threshold t. Most objects find nothing, so only those that
    did have a row in `hits` (chose a true object that counts) and `spared` (chose one to ignore); `rows` names them.
    """

    image: Int[np.ndarray, " n"]
    labels: Integer[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    rank: Integer[np.ndarray, " n"]  # place by score in its image and class
    outside: Integer[np.ndarray, " n"]  # bit a: without a partner it does not count in area range a
    rows: Int[np.ndarray, " m"]
    hits: UInt64[np.ndarray, "m words"]
    spared: UInt64[np.ndarray, "m words"]


def ranked(keys: Indices, scores: Float[np.ndarray, " n"], *ties: Indices) -> tuple[Indices, Indices]:
    """The order by key, then by falling score, then by `ties`, then as it came; and places within keys."""
    order = np.lexsort((*reversed(ties), -scores, keys))
    key = keys[order]
    begins = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
    place = np.arange(len(key)) - np.repeat(begins, np.diff(np.append(begins, len(key))))
    return order, place


def candidates(keys: Indices, true_keys: Indices, true_order: Indices) -> tuple[Indices, Indices]:
    """All pairs of equal keys: places in `keys`, rising, and in `true_keys`, which `true_order` sorts."""
    first = np.searchsorted(true_keys[true_order], keys, side="left")
    count = np.searchsorted(true_keys[true_order], keys, side="right") - first
    d = np.repeat(np.arange(len(keys)), count)
    return d, true_order[np.arange(len(d)) - np.repeat(np.cumsum(count) - count - first, count)]


def counted(truth: Objects, areas: Float[np.ndarray, "a 2"]) -> Bool[np.ndarray, "n a"]:
    """Which true objects count in which area range (ends included); crowds and objects to ignore never do."""
    inside = (truth.areas[:, None] >= areas[:, 0]) & (truth.areas[:, None] <= areas[:, 1])
    for flag in (truth.crowd, truth.ignore):
        if flag is not None:
            inside &= ~flag[:, None]
    return inside


def match(
    found: Objects,
    truth: Objects,
    overlap: Overlap,
    thresholds: Float[np.ndarray, " t"],
    areas: Float[np.ndarray, "a 2"],
    limit: int,
    classes: int,
    unsure: Indices | None = None,
) -> Matched:
    """Match the objects of some images; at most `limit` found ones in each image and class.

    `classes=0` lets objects of all classes match each other. `unsure` holds image * classes + label of the classes of
    which an image's truth is known not to list every object: there nothing found is wrong.
    """
    assert found.scores is not None
    keys = found.image * classes + found.labels if classes else found.image
    true_keys = truth.image * classes + truth.labels if classes else truth.image
    order, rank = ranked(keys, found.scores, *(() if classes else (found.labels,)))
    order, rank = order[rank < limit], rank[rank < limit]
    keys = keys[order]
    true_order = np.argsort(true_keys, kind="stable") if classes else np.lexsort((truth.labels, true_keys))
    d, g = candidates(keys, true_keys, true_order)
    reach = np.minimum(thresholds, 1 - 1e-10)
    iou = overlap(found, truth, order[d], g, float(reach[0]))
    near = np.flatnonzero(iou >= reach[0])
    d, g, iou = d[near], g[near], iou[near]
    level = np.searchsorted(reach, iou, side="right")  # how many thresholds it passes

    counts = counted(truth, areas)
    crowd = np.zeros(len(truth), bool) if truth.crowd is None else truth.crowd
    rows, at = np.unique(d, return_inverse=True)
    plan = _Plan.of(keys[d], at, g, iou)
    shape = (len(rows), -(-len(areas) * len(thresholds) // _BITS))
    hits, spared = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
    flags = [(a, t) for a in range(len(areas)) for t in range(len(thresholds))]
    for word in range(shape[1]):
        some = flags[word * _BITS : (word + 1) * _BITS]
        passes = _pack(np.arange(len(thresholds) + 1)[:, None] > np.array([t for _, t in some]))[level]
        real = _pack(counts[:, [a for a, _ in some]])[g]
        hits[:, word], spared[:, word] = plan.walk(passes & real, passes & ~real, len(rows), crowd)
    kept = np.flatnonzero((hits | spared).any(1))

    size = found.areas[order][:, None]
    outside = (size < areas[:, 0]) | (size > areas[:, 1])
    if unsure is not None:
        outside |= np.isin(keys, unsure)[:, None]
    scores = found.scores[order]
    single = scores.astype(np.float32)  # what networks give fits; scores of files often do not
    codes = np.uint32(1) << np.arange(len(areas), dtype=np.uint32)
    return Matched(
        found.image[order].astype(np.int32),
        found.labels[order].astype(np.min_scalar_type(max(classes - 1, int(found.labels.max(initial=0))))),
        single if (single == scores).all() else scores,
        rank.astype(np.min_scalar_type(limit)),
        (outside * codes).sum(1).astype(np.min_scalar_type(2 ** len(areas) - 1)),
        rows[kept].astype(np.int32),
        hits[kept],
        spared[kept],
    )


def _pack(flags: Bool[np.ndarray, "n b"]) -> UInt64[np.ndarray, " n"]:
    """Up to 64 flags in a row as the bits of one number."""
    return (flags.astype(np.uint64) << np.arange(flags.shape[1], dtype=np.uint64)).sum(1, dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class _Plan:
    """In which order pairs are looked at: step s takes the s-th choice of every (image, class) at once."""

    order: Indices  # of choices: pair p while looking for what counts, p + pairs while looking for what to ignore
    bounds: Sequence[int]  # step s: bounds[s] to bounds[s + 1]
    d: Indices
    g: Indices

    @classmethod
    def of(cls, keys: Indices, d: Indices, g: Indices, iou: Float[np.ndarray, " p"]) -> _Plan:
        """From pairs sorted by key and by d, the place of the found object in order of score."""
        best = np.lexsort((-np.arange(len(d)), -iou, d))  # of equal overlaps COCO takes the last
        # All that count come before all to ignore; stable sorting keeps the best first in both.
        both = np.concatenate([best, best + len(d)])
        order = both[np.argsort(np.concatenate([2 * d[best], 2 * d[best] + 1]), kind="stable")]
        key = keys[order % max(len(d), 1)]
        begins = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
        step = np.arange(len(key)) - np.repeat(begins, np.diff(np.append(begins, len(key))))
        order = order[np.argsort(step, kind="stable")]
        bounds = [0, *np.cumsum(np.bincount(step)).tolist()] if len(step) else [0]
        return cls(order, bounds, d[order % max(len(d), 1)], g[order % max(len(d), 1)])

    def walk(
        self, real: UInt64[np.ndarray, " p"], other: UInt64[np.ndarray, " p"], n: int, crowd: Bool[np.ndarray, " m"]
    ) -> tuple[UInt64[np.ndarray, " n"], UInt64[np.ndarray, " n"]]:
        """Which bits of each found object chose a true one that counts, and which one to ignore."""
        wish = np.concatenate([real, other])[self.order]
        first_half = self.order < len(real)
        full = np.uint64(2**_BITS - 1)
        closes = np.where(crowd[self.g], np.uint64(0), full)  # a crowd may be chosen again and again
        is_real = np.where(first_half, full, np.uint64(0))
        open_, free = np.full(n, full), np.full(len(crowd), full)
        hits = np.zeros(n, np.uint64)
        for low, high in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            d, g = self.d[low:high], self.g[low:high]
            got = wish[low:high] & open_[d] & free[g]
            open_[d] ^= got
            free[g] &= ~(got & closes[low:high])
            hits[d] |= got & is_real[low:high]
        return hits, ~(open_ | hits)
