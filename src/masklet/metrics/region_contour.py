"""Region similarity J and contour accuracy F of the objects of one frame, all of them at once.

For one object, with P the predicted and T the true pixels:

    J  |P ∩ T| / |P ∪ T|; 1 where both are empty                     (Perazzi et al., 2016, sec. 5.1)
    F  2 p r / (p + r): p is the share of P's outline within .8 % of the image diagonal of T's, r the other way round;
       1 where neither has an outline, 0 where one has none          (sec. 5.2, after Martin et al., 2004)

Both equal `db_eval_iou` and `db_eval_boundary` of davis2017-evaluation, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from masklet.ops.boundaries import MAX_PLANES, bit_planes, content_box, meet, reach
from masklet.structures import Masks, UserError

__all__ = ["Frame", "Layers", "ObjectMaps", "compare", "j_and_f"]

ObjectMaps = Tensor | np.ndarray | Masks


@dataclass(frozen=True, eq=False)
class Frame:
    """J and F of one frame, and which objects either side shows.

    `j` and `f` have a row for each predicted and a column for each true object, or, where objects keep their ids
    instead of being matched, one entry for each of `ids`. Where both sides lack an object, it scores 1 (not stored).
    """

    pred: Int64[np.ndarray, " p"]
    truth: Int64[np.ndarray, " t"]
    j: Float64[np.ndarray, "*n"]
    f: Float64[np.ndarray, "*n"]

    @property
    def ids(self) -> Int64[np.ndarray, " n"]:
        """Objects of either side, in order."""
        return np.union1d(self.pred, self.truth)


def j_and_f(
    pred: Bool[np.ndarray, "h w"] | Bool[Tensor, "h w"],
    truth: Bool[np.ndarray, "h w"] | Bool[Tensor, "h w"],
    bound: int | float = 0.008,
) -> tuple[float, float]:
    """J and F of one mask; `bound` is how far outlines may be apart, in image diagonals (1 and above: pixels)."""
    frame = compare(pred, truth, bound)
    return (float(frame.j[0]), float(frame.f[0])) if len(frame.j) else (1.0, 1.0)


def compare(
    pred: ObjectMaps,
    truth: ObjectMaps,
    bound: int | float = 0.008,
    *,
    matched: bool = False,
    void: int | None = None,
    where: tuple[str, int] | None = None,
) -> Frame:
    """J and F of the objects of one frame: of all pairs if `matched`, else of equal ids. See `JF.update`.

    Pixels of the id `void` in the truth are background; if `matched`, the predictions end there too.
    """
    predicted, true = Layers.of(pred, "prediction"), Layers.of(truth, "truth")
    predicted.check_size(true, "" if where is None else f"frame {where[1]} of {where[0]!r}: ")
    if void is not None:
        predicted, true = _without(predicted, true, void, matched)
    radius = reach(*true.shape, bound)
    box = content_box(*predicted.maps, *true.maps)
    predicted, true = predicted.cut(box), true.cut(box)
    rows, columns = predicted.present(), true.present()
    part = MAX_PLANES // 2
    if matched:
        scores = np.zeros((2, len(rows), len(columns)))
        for i in range(0, len(rows), part):
            for k in range(0, len(columns), part):
                pair = rows[i : i + part], columns[k : k + part]
                scores[:, i : i + part, k : k + part] = _scores(predicted, true, *pair, radius)
        return Frame(rows, columns, *scores)
    both = np.union1d(rows, columns)
    scores = np.zeros((2, len(both)))
    for i in range(0, len(both), part):
        some = both[i : i + part]
        scores[:, i : i + part] = _scores(predicted, true, some, some, radius).diagonal(axis1=1, axis2=2)
    return Frame(rows, columns, *scores)


@dataclass(frozen=True, eq=False)
class Layers:
    """One frame's objects: a map of ids, or one map per object, which may overlap."""

    maps: tuple[np.ndarray, ...]
    stacked: bool  # one map per object, for ids 1, 2, 3, ...
    shape: tuple[int, int]

    @classmethod
    def of(cls, objects: ObjectMaps, role: str) -> Layers:
        """From what a caller has; `role` names it in errors."""
        if isinstance(objects, Masks):
            if not len(objects):
                return cls((np.zeros(objects.size, np.uint8),), False, objects.size)
            dense = objects.dense().numpy().view(np.uint8)
            return cls(tuple(dense), True, objects.size)
        ids = objects.detach().cpu().numpy() if isinstance(objects, Tensor) else objects
        if ids.ndim != 2:
            raise UserError(f"{role} has shape {tuple(ids.shape)}", hint="expected (H, W) object ids, or Masks")
        if ids.dtype == bool:
            ids = ids.view(np.uint8)
        if ids.dtype.kind not in "ui":
            raise UserError(f"{role} holds {ids.dtype}, not object ids", hint="give whole numbers, 0 is background")
        if ids.dtype != np.uint8 and ids.size:
            low, high = int(ids.min()), int(ids.max())
            if low < 0:
                raise UserError(f"{role} has the object id {low}", hint="ids count from 1, and 0 is background")
            ids = ids.astype(np.uint8) if high < 256 else ids
        return cls((ids,), False, ids.shape)

    def check_size(self, truth: Layers, place: str = "") -> None:
        """Refuses a prediction of another size than the truth."""
        if self.shape != truth.shape:
            (h, w), (height, width) = self.shape, truth.shape
            raise UserError(
                f"{place}prediction is {h}x{w} but truth is {height}x{width}",
                hint="resize the prediction to the truth (nearest)",
            )

    def cut(self, box: tuple[slice, slice]) -> Layers:
        """The same objects inside a box."""
        return Layers(tuple(np.ascontiguousarray(one[box]) for one in self.maps), self.stacked, self.shape)

    def present(self) -> Int64[np.ndarray, " n"]:
        """The ids that have pixels, in order."""
        if self.stacked:
            return 1 + np.flatnonzero([one.any() for one in self.maps])
        flat = self.maps[0].ravel()
        if not len(flat):
            return np.zeros(0, np.int64)
        if (highest := int(flat.max())) <= 8:  # then asking for each is faster than looking what there is
            return np.array([k for k in range(1, highest + 1) if (flat == k).any()], np.int64)
        runs = flat[np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))]
        found = np.flatnonzero(np.bincount(runs)) if flat.dtype == np.uint8 else np.unique(runs)
        return found[found != 0].astype(np.int64)

    def planes(self, ids: Int64[np.ndarray, " n"]) -> tuple[list[np.ndarray], list[list[int]]]:
        """Maps and their values such that `bit_planes` has a plane for each id, in this order."""
        if not self.stacked:
            return [self.maps[0]], [ids.tolist()]
        nothing = np.zeros(self.maps[0].shape, np.uint8)
        return [self.maps[k - 1] if k <= len(self.maps) else nothing for k in ids.tolist()], [[1]] * len(ids)


def _scores(
    pred: Layers, truth: Layers, rows: Int64[np.ndarray, " p"], columns: Int64[np.ndarray, " t"], radius: int
) -> Float64[np.ndarray, "2 p t"]:
    """J and F of all pairs."""
    p, n = len(rows), len(rows) + len(columns)
    (maps, values), (more, others) = pred.planes(rows), truth.planes(columns)
    met = meet(bit_planes([*maps, *more], [*values, *others]), n, radius)
    areas, lengths = met.shared.diagonal(), met.near.diagonal()
    shared = met.shared[:p, p:]
    union = areas[:p, None] + areas[p:] - shared
    j = np.where(union > 0, shared / np.maximum(union, 1), 1.0)
    precision = met.near[:p, p:] / np.maximum(lengths[:p, None], 1)
    recall = met.near[p:, :p].T / np.maximum(lengths[p:], 1)
    total = precision + recall
    f = np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1), 0.0)
    f[(lengths[:p, None] == 0) & (lengths[p:] == 0)] = 1.0
    return np.stack([j, f])


def _without(pred: Layers, truth: Layers, void: int, matched: bool) -> tuple[Layers, Layers]:
    """Both sides with void pixels turned to background, of the predictions only if `matched`."""
    if truth.stacked or not (nothing := truth.maps[0] == void).any():
        return pred, truth
    cleaned = [
        Layers(tuple(np.where(nothing, one.dtype.type(0), one) for one in side.maps), side.stacked, side.shape)
        for side in ((pred, truth) if matched else (truth,))
    ]
    return (cleaned[0], cleaned[1]) if matched else (pred, cleaned[0])
