"""Average precision of boxes as PASCAL VOC defines it: one IoU threshold, and the area under the curve or 11 points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from masklet.metrics.ap import check_objects, seats
from masklet.metrics.ap_matching import candidates, ranked
from masklet.metrics.ap_overlap import box_overlap
from masklet.structures import Classes, Curve, Instances, UserError
from masklet.structures.classes import names_of
from masklet.structures.objects import Objects

__all__ = ["VocAP"]


@dataclass
class VocAP:
    """AP of the PASCAL VOC development kit (Everingham et al., 2010), and its mean over classes.

    Found boxes choose the true box of their class that they overlap most; at IoU >= `threshold` the first by score is
    right, later ones are wrong, and those of difficult boxes do not count. points="area" is the area under the
    precision envelope (VOC 2010 to 2012), points="eleven" the mean of the envelope at recalls 0, .1, ... 1 (VOC 2007).

    Our boxes end exclusively: VOC's pixels x0..x1 are the box from x0 to x1 + 1, which gives its overlaps exactly.
    """

    classes: Classes | int
    threshold: int | float = 0.5
    points: str = "area"
    image_ids: list[int | str] = field(init=False, default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.points not in ("area", "eleven"):
            raise UserError(f"points is {self.points!r}", hint="choose 'area' (VOC 2010) or 'eleven' (VOC 2007)")
        if not 0 < self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}", hint="an IoU above 0 and up to 1; VOC's is 0.5")
        self._truths = np.zeros(len(self.names), np.int64)
        self._columns: dict[str, list[np.ndarray]] = {name: [] for name in ("image", "labels", "scores", "right")}
        self._seen: set[int | str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """Class names as they appear in the scores; numbers where only their count is known."""
        return names_of(self.classes)

    @property
    def images(self) -> int:
        """How many images came so far."""
        return len(self.image_ids)

    def update(
        self,
        pred: Instances | Objects,
        truth: Instances | Objects,
        *,
        image: int | str,
        difficult: Sequence[bool] | np.ndarray | None = None,
    ) -> None:
        """Adds one image, known by `image`, a number or name that occurs once; `difficult` flags true boxes."""
        found = Objects.of_instances(pred) if isinstance(pred, Instances) else pred
        true = Objects.of_instances(truth) if isinstance(truth, Instances) else truth
        flags = true.ignore if difficult is None else np.asarray(difficult, bool)
        self.update_many(found.of(0), replace(true, ignore=flags).of(0), [image])

    def update_many(self, pred: Objects, truth: Objects, images: Sequence[int | str]) -> None:
        """Adds many images: `images[i]` is image i in both tables; `truth.ignore` flags difficult boxes."""
        if twice := [image for i, image in enumerate(images) if image in self._seen or image in images[:i]]:
            raise UserError(f"image {twice[0]!r} came twice", hint="update once for each image, with everything in it")
        k = len(self.names)
        for part, side in ((pred, "prediction"), (truth, "truth")):
            check_objects(part, side, k, images)
        if pred.scores is None:
            raise UserError("the predictions have no scores", hint="give one score for each object")
        difficult = np.zeros(len(truth), bool) if truth.ignore is None else truth.ignore
        keys, true_keys = pred.image * k + pred.labels, truth.image * k + truth.labels
        order, _ = ranked(keys, pred.scores)
        d, g = candidates(keys[order], true_keys, np.argsort(true_keys, kind="stable"))
        iou = box_overlap(pred, replace(truth, crowd=None), order[d], g)
        best = np.lexsort((-iou, d))  # of equal overlaps the first
        best = best[np.append(True, np.diff(d[best]) > 0)[: len(best)]]
        best = best[iou[best] >= self.threshold]
        right, counts = np.zeros(len(order), bool), np.ones(len(order), bool)
        first = np.unique(g[best], return_index=True)[1]  # pairs are in order of score
        right[d[best[first]]] = True
        counts[d[best[difficult[g[best]]]]] = False
        keep = order[counts]
        parts = (pred.image[keep] + len(self.image_ids), pred.labels[keep], pred.scores[keep], right[counts])
        kinds = (np.int32, np.int32, np.float64, np.bool_)
        for column, part, kind in zip(self._columns.values(), parts, kinds, strict=True):
            column.append(part.astype(kind))
        self._truths += np.bincount(truth.labels[~difficult], minlength=k)
        self._seen.update(images)
        self.image_ids.extend(images)

    def merge(self, other: VocAP) -> None:
        """Adds the images of another part of the data; the order does not matter."""
        mine, theirs = ((s.names, s.threshold, s.points) for s in (self, other))
        if mine != theirs:
            raise UserError(f"cannot merge scores of different settings: {mine} and {theirs}")
        if twice := self._seen & other._seen:
            again = next(image for image in other.image_ids if image in twice)
            raise UserError(f"image {again!r} is in both parts", hint="give every image to one part only")
        for name, column in other._columns.items():
            self._columns[name] += [part + np.int32(self.images) for part in column] if name == "image" else column
        self._truths += other._truths
        self._seen |= other._seen
        self.image_ids += other.image_ids

    def compute(self) -> dict[str, float]:
        """ap, the mean over classes with true boxes, and ap/<class>; NaN where there was nothing to find."""
        found = zip(self.names, self._curves(), self._truths.tolist(), strict=True)
        scores = {f"ap/{name}": self._ap(*curve, truths) for name, curve, truths in found}
        known = [value for value in scores.values() if not np.isnan(value)]
        return {"ap": float(np.mean(known)) if known else float("nan"), **scores}

    def table(self) -> list[dict[str, float | int | str]]:
        """One row per class: AP, the recall reached, and the number of true boxes that are not difficult."""
        rows: list[dict[str, float | int | str]] = []
        for name, (recall, precision), truths in zip(self.names, self._curves(), self._truths.tolist(), strict=True):
            reached = float(recall.max(initial=0)) if truths else float("nan")
            rows.append({"class": name, "ap": self._ap(recall, precision, truths), "recall": reached, "truths": truths})
        return rows

    def curves(self) -> list[Curve]:
        """Precision over recall, as measured, of each class with true boxes."""
        found = zip(self.names, self._curves(), self._truths.tolist(), strict=True)
        return [Curve(name, r, p, "recall", "precision", "classes") for name, (r, p), truths in found if truths]

    def _curves(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Recall and precision after each found box, by class; recall is NaN where there is nothing to find."""
        joined = {name: np.concatenate(c) if c else np.zeros(0, np.int64) for name, c in self._columns.items()}
        seat = seats(self.image_ids)
        where = joined["image"] if seat is None else seat[joined["image"]]
        order = np.lexsort((where, -joined["scores"], joined["labels"]))
        ends = np.cumsum(np.bincount(joined["labels"], minlength=len(self.names)))
        lists = np.split(joined["right"][order].astype(np.int64), ends[:-1])
        out = []
        for right, truths in zip(lists, self._truths.tolist(), strict=True):
            got = np.cumsum(right)
            out.append((got / (truths or np.nan), got / np.arange(1, len(right) + 1)))
        return out

    def _ap(self, recall: Float[np.ndarray, " n"], precision: Float[np.ndarray, " n"], truths: int) -> float:
        if not truths:
            return float("nan")
        if self.points == "eleven":
            return float(np.mean([precision[recall >= r].max(initial=0) for r in np.arange(11) / 10]))
        best = np.maximum.accumulate(precision[::-1])[::-1]  # precision at this recall or beyond
        return float((np.diff(recall, prepend=0) * best).sum())
