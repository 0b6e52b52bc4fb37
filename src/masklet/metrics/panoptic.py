"""How well the segments of an image agree with the truth: panoptic quality (Kirillov et al., 2019, CVPR).

A predicted and a true segment of one class match where their IoU exceeds 0.5; no segment can then have two matches.

    PQ = Σ IoU of matches / (TP + FP / 2 + FN / 2)  =  SQ x RQ     per class, then averaged over classes
    SQ = mean IoU of matches                                       how well matched segments fit
    RQ = TP / (TP + FP / 2 + FN / 2)                               how many were found: F1

The averages of SQ and RQ do not multiply to that of PQ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer, Shaped
from torch import Tensor

from masklet.ops.panoptic import match, overlaps
from masklet.structures import Classes, Curve, Panoptic, Segment
from masklet.structures.errors import UserError

__all__ = ["Outcomes", "PanopticScore"]

TP, FP, FN = range(3)
OUTCOME = np.dtype([("label", np.int32), ("outcome", np.uint8), ("area", np.int64), ("iou", np.float64)])
KINDS = ("", "_things", "_stuff")
SIZES = ("_small", "_medium", "_large")

Outcomes = Shaped[np.ndarray, "_"]  # of dtype OUTCOME: the area is the true segment's, for FP the predicted one's


class Counts(NamedTuple):
    """Per class: how many segments matched, were made up, were missed, and the sum of the matches' IoU."""

    tp: Int64[np.ndarray, " k"]
    fp: Int64[np.ndarray, " k"]
    fn: Int64[np.ndarray, " k"]
    iou: Float[np.ndarray, " k"]

    @property
    def seen(self) -> Bool[np.ndarray, " k"]:
        """The classes that occur at all."""
        return self.tp + self.fp + self.fn > 0


@dataclass
class PanopticScore:
    """PQ, SQ and RQ with the rules of panopticapi, the official tool of COCO and Cityscapes.

    - Void (id 0 in the truth) is taken off the predicted area before an IoU is computed.
    - A crowd segment in the truth is never matched and never missed.
    - An unmatched prediction is no FP where more than half of it lies on void and on crowd of its class. As in the
      official tool, only the last crowd segment of each class in an image is remembered.
    - Classes without any TP, FP or FN do not enter the means, and a class without matches has SQ 0.
    - Areas are counted in the maps on both sides (the official tool takes those of the truth from its JSON).

    Beyond it, as the paper has them:

    - `threshold` above 0.5 asks for more: IoU > threshold. Below 0.5 a segment may overlap several, and matches are
      those pairs of IoU >= threshold that have the largest sum of IoUs (maximum-weight bipartite matching per class).
    - `alpha` weighs errors: RQ = TP / (TP + alpha FP + alpha FN), and PQ with it. 0.5 is F1.
    - The scores of small, medium and large segments: the smallest quarter of all true segments, the half between, the
      largest quarter; or pixel areas up to `sizes[0]`, up to `sizes[1]`, and above. Matches and misses belong to the
      size of the true segment, made-up segments to their own.
    """

    classes: Classes
    threshold: int | float = 0.5
    alpha: int | float = 0.5
    sizes: tuple[int | float, int | float] | None = None
    images: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise UserError(f"the IoU threshold is {self.threshold}", hint="choose a number in 0 <= threshold < 1")
        if not self.alpha >= 0:
            raise UserError(f"alpha is {self.alpha}", hint="it weighs errors: 0 or more, 0.5 for F1")
        if self.sizes is not None and not 0 <= self.sizes[0] <= self.sizes[1]:
            raise UserError(f"the sizes are {self.sizes}", hint="give two areas in pixels, the smaller one first")
        self._outcomes: list[np.ndarray] = []

    def update(self, pred: Panoptic, truth: Panoptic) -> None:
        """Adds one image."""
        self.add(self.count(_ids(pred), pred.segments, _ids(truth), truth.segments))

    def update_maps(
        self,
        pred: Integer[np.ndarray, "h w"],
        pred_segments: Sequence[Segment],
        truth: Integer[np.ndarray, "h2 w2"],
        truth_segments: Sequence[Segment],
    ) -> None:
        """Adds one image given as id maps (0 is void) and their segments; what `update` does, without the wrapping."""
        self.add(self.count(pred, pred_segments, truth, truth_segments))

    def count(
        self,
        pred: Integer[np.ndarray, "h w"],
        pred_segments: Sequence[Segment],
        truth: Integer[np.ndarray, "h2 w2"],
        truth_segments: Sequence[Segment],
    ) -> Outcomes:
        """What became of every segment of an image, for `add`. Changes nothing, so threads may share the score."""
        if pred.shape != truth.shape:
            raise UserError(
                f"the prediction is {_size(pred.shape)} but the truth is {_size(truth.shape)} (height x width)",
                hint="resize the prediction to the truth (nearest neighbour), or check that the files belong together",
            )
        true, found = _Side(truth_segments, self.classes, "truth"), _Side(pred_segments, self.classes, "prediction")
        pairs = overlaps(truth, pred)
        table = np.zeros((len(true.labels) + 1, len(found.labels) + 1), np.int64)  # row and column 0 are void
        table[true.places(pairs.first), found.places(pairs.second)] = pairs.pixels
        true_area, found_area = true.areas(table.sum(1)), found.areas(table.sum(0))
        shared, void = table[1:, 1:], table[0, 1:]
        same = (true.labels[:, None] == found.labels) & ~true.crowd[:, None]
        iou = np.where(same, shared / (true_area[:, None] + found_area - shared - void), 0.0)
        rows, columns = match(iou, self.threshold)

        missed = ~true.crowd
        missed[rows] = False
        excused = void.copy()
        for label, row in {int(true.labels[i]): i for i in np.flatnonzero(true.crowd)}.items():  # the last of a class
            excused += np.where(found.labels == label, shared[row], 0)
        made_up = excused / found_area <= 0.5
        made_up[columns] = False
        return np.concatenate(
            [
                _outcomes(TP, true.labels[rows], true_area[rows], iou[rows, columns]),
                _outcomes(FP, found.labels[made_up], found_area[made_up]),
                _outcomes(FN, true.labels[missed], true_area[missed]),
            ]
        )

    def add(self, outcomes: Outcomes) -> None:
        """Adds what `count` found in one image."""
        self._outcomes.append(outcomes)
        self.images += 1

    def merge(self, other: PanopticScore) -> None:
        """Adds another part of the data; the order does not matter."""
        mine, theirs = ((s.classes.names, s.classes.things, s.threshold, s.alpha, s.sizes) for s in (self, other))
        if mine != theirs:
            at = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
            what = ("class names", "things", "threshold", "alpha", "sizes")[at]
            raise UserError(f"cannot merge panoptic scores of different {what}: {mine[at]} and {theirs[at]}")
        self._outcomes += other._outcomes
        self.images += other.images

    def compute(self) -> dict[str, float]:
        """pq, sq, rq; the same with _things, _stuff, _small, _medium, _large; then pq/<class>, sq/<class>, rq/<class>.

        All in [0, 1]; NaN where there was nothing to score (the official tool stops there).
        """
        outcomes, scores = self._all(), dict[str, float]()
        counts = self._counts(outcomes)
        for kind in KINDS:
            scores |= self._means(counts, kind, self._members(kind))
        bins = self._bins(outcomes)
        for i, size in enumerate(SIZES):
            scores |= self._means(self._counts(outcomes[bins == i]), size, self._members(""))
        each = self._quality(counts)
        for name, values in zip(("pq", "sq", "rq"), each, strict=True):
            scores |= {
                f"{name}/{self.classes.names[i]}": float(values[i]) for i in np.flatnonzero(self._members("")).tolist()
            }
        return scores

    def summary(self) -> str:
        """The table that panopticapi prints: percentages, and over how many classes they are averaged."""
        counts, lines = self._counts(self._all()), [f"{'':10s}| {'PQ':>5s}  {'SQ':>5s}  {'RQ':>5s} {'N':>5s}", "-" * 38]
        for name, kind in zip(("All", "Things", "Stuff"), KINDS, strict=True):
            members = self._members(kind)
            pq, sq, rq = (100 * value for value in self._means(counts, "", members).values())
            lines.append(f"{name:10s}| {pq:5.1f}  {sq:5.1f}  {rq:5.1f} {int((counts.seen & members).sum()):5d}")
        return "\n".join(lines)

    def table(self) -> list[dict[str, float | int | str]]:
        """One row for each class that occurs."""
        counts = self._counts(self._all())
        pq, sq, rq = self._quality(counts)
        return [
            {
                "class": self.classes.names[i],
                "kind": "thing" if self.classes.things[i] else "stuff",
                "pq": float(pq[i]),
                "sq": float(sq[i]),
                "rq": float(rq[i]),
                "tp": int(counts.tp[i]),
                "fp": int(counts.fp[i]),
                "fn": int(counts.fn[i]),
            }
            for i in np.flatnonzero(counts.seen & self._members("")).tolist()
        ]

    def curves(self) -> list[Curve]:
        """Which share of the matches has at most a given IoU (Kirillov et al., fig. 6: matched with threshold=0)."""
        outcomes = self._all()
        matches = outcomes[outcomes["outcome"] == TP]
        grid, curves = np.linspace(0.0, 1.0, 101), []
        for name, kind in zip(("all", "things", "stuff"), KINDS, strict=True):
            iou = np.sort(matches["iou"][self._members(kind)[matches["label"]]])
            if len(iou):
                share = np.searchsorted(iou, grid, side="right") / len(iou)
                curves.append(Curve(name, grid, share, "IoU", "share of matches", "Overlap of matched segments"))
        return curves

    def _all(self) -> Outcomes:
        """Every segment so far, in an order that does not depend on that of images: sums come out equal to the bit."""
        if not self._outcomes:
            return np.zeros(0, OUTCOME)
        self._outcomes = [np.concatenate(self._outcomes)]
        return self._outcomes[0][np.lexsort((self._outcomes[0]["iou"], self._outcomes[0]["label"]))]

    def _counts(self, outcomes: Outcomes) -> Counts:
        k, label = len(self.classes), outcomes["label"]
        cells = np.bincount(outcomes["outcome"] * np.int64(k) + label, minlength=3 * k).reshape(3, k)
        return Counts(cells[TP], cells[FP], cells[FN], np.bincount(label, weights=outcomes["iou"], minlength=k))

    def _quality(self, counts: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """PQ, SQ and RQ of every class; NaN where it does not occur."""
        whole = counts.tp + self.alpha * counts.fp + self.alpha * counts.fn
        base = np.where(counts.seen, 0.0, np.nan)
        pq = np.divide(counts.iou, whole, out=base.copy(), where=whole > 0)
        sq = np.divide(counts.iou, counts.tp, out=base.copy(), where=counts.tp > 0)
        rq = np.divide(counts.tp, whole, out=base.copy(), where=whole > 0)
        return pq, sq, rq

    def _means(self, counts: Counts, suffix: str, members: Bool[np.ndarray, " k"]) -> dict[str, float]:
        chosen = counts.seen & members
        pq, sq, rq = (float(q[chosen].mean()) if chosen.any() else float("nan") for q in self._quality(counts))
        return {f"pq{suffix}": pq, f"sq{suffix}": sq, f"rq{suffix}": rq}

    def _members(self, kind: str) -> Bool[np.ndarray, " k"]:
        """The classes that a mean is taken over."""
        things, members = np.array(self.classes.things), np.ones(len(self.classes), bool)
        members[list(self.classes.unscored)] = False
        return {"": members, "_things": members & things, "_stuff": members & ~things}[kind]

    def _bins(self, outcomes: Outcomes) -> Integer[np.ndarray, " n"]:
        """0, 1 and 2 for small, medium and large."""
        true = outcomes["area"][outcomes["outcome"] != FP]
        edges = self.sizes or (np.quantile(true, (0.25, 0.75)) if len(true) else (0, 0))
        return np.searchsorted(np.asarray(edges), outcomes["area"], side="left")


class _Side:
    """The segments of one map as arrays; place 0 is void, place i + 1 is segment i."""

    def __init__(self, segments: Sequence[Segment], classes: Classes, what: str):
        self.what = what
        self.ids = np.array([0, *(s.id for s in segments)], np.int64)
        self.labels = np.array([s.label for s in segments], np.int64)
        self.crowd = np.array([s.crowd for s in segments], bool)
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted = self.ids[self._order]
        if (same := self._sorted[1:] == self._sorted[:-1]).any():
            twice = int(self._sorted[1:][same][0])
            if twice == 0:
                raise UserError(f"a segment of the {what} has the id 0", hint="0 is void; count segments from 1")
            raise UserError(f"two segments of the {what} have the id {twice}", hint="ids are unique within one image")
        if (outside := (self.labels < 0) | (self.labels >= len(classes))).any():
            at = int(np.argmax(outside))
            raise UserError(
                f"segment {self.ids[at + 1]} of the {what} has the class {self.labels[at]}, which does not exist",
                hint=f"classes are 0..{len(classes) - 1}",
            )

    def places(self, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Where the ids of a map stand; an id without a segment is an error."""
        at = np.searchsorted(self._sorted, ids).clip(max=len(self._sorted) - 1)
        if (strange := self._sorted[at] != ids).any():
            raise UserError(
                f"the {self.what} contains id {ids[strange][0]}, which no segment describes",
                hint="describe it, or set its pixels to 0 (void)",
            )
        return self._order[at]

    def areas(self, pixels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n-1"]:
        """The pixels of each segment, given those of each place; a segment without any is an error."""
        if (empty := pixels[1:] == 0).any():
            raise UserError(
                f"segment {self.ids[1:][empty][0]} of the {self.what} has no pixel in the map",
                hint="leave empty segments out",
            )
        return pixels[1:]


def _outcomes(kind: int, labels: np.ndarray, areas: np.ndarray, iou: Any = 0.0) -> Outcomes:
    rows = np.zeros(len(labels), OUTCOME)
    rows["outcome"], rows["label"], rows["area"], rows["iou"] = kind, labels, areas, iou
    return rows


def _ids(panoptic: Panoptic) -> Int64[np.ndarray, "h w"]:
    ids: Tensor = panoptic.ids
    return ids.cpu().numpy()


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
