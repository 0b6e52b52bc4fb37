"""Average precision and recall of found objects: COCO's boxes, masks and keypoints, and LVIS's incomplete truth.

For each class, found objects of all images are sorted by score; going down the list, precision is the share that was
right so far and recall the share of true objects that was found. AP is the mean over 101 recalls of the best precision
at that recall or beyond, over classes, and over the IoU thresholds .5, .55, ... .95 that say what "right" means.

State is what became of each object (`ap_matching.Matched`), about 20 bytes for each, never a mask.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float64, Int, UInt64

from masklet.metrics.ap_matching import Matched, counted, match, ranked
from masklet.metrics.ap_overlap import (
    COCO_SIGMAS,
    Overlap,
    boundary_overlap,
    box_overlap,
    keypoint_overlap,
    mask_overlap,
)
from masklet.structures import Classes, Curve, Instances, UserError
from masklet.structures.classes import names_of
from masklet.structures.objects import Objects, concat

__all__ = ["COCO_AREAS", "AveragePrecision", "keypoint_ap", "lvis_ap"]

Areas = Mapping[str, tuple[int | float, int | float]]
Precision = Float64[np.ndarray, "t r k a"]
Recall = Float64[np.ndarray, "t k a"]

COCO_AREAS: Areas = MappingProxyType(
    {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}
)
THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALLS = np.linspace(0, 1, 101)
FREQUENCIES = MappingProxyType({"r": "rare", "c": "common", "f": "frequent"})
OVERLAPS: Mapping[str, Overlap] = MappingProxyType(
    {"box": box_overlap, "mask": mask_overlap, "boundary": boundary_overlap, "keypoints": keypoint_overlap()}
)
_WAITING = 2**14  # objects that wait to be matched together


@dataclass
class AveragePrecision:
    """COCO's AP and AR (Lin et al., 2014), equal to pycocotools' `COCOeval` in every number.

    `classes` names the labels. iou_type says what must overlap: "box", "mask", "boundary" (the lower one of mask and
    boundary IoU; Cheng et al., 2021) or "keypoints" (OKS). Per class and image only the `max_dets[-1]` best found
    objects count; recall is also given for the smaller numbers. The first of `areas`, in pixels with both ends, holds
    all objects. With use_classes=False labels do not matter, as for proposals (pycocotools' `useCats = 0`).

    limit="image" takes the `max_dets` best of an image instead of each class in it; with `frequencies`, one of r, c
    and f for each class, there are means over rare, common and frequent classes. Together they make `lvis_ap`.
    """

    classes: Classes | int
    iou_type: str = "box"
    max_dets: tuple[int, ...] = (1, 10, 100)
    thresholds: tuple[int | float, ...] = THRESHOLDS
    areas: Areas = field(default_factory=lambda: dict(COCO_AREAS))
    use_classes: bool = True
    limit: str = "class"
    sigmas: tuple[int | float, ...] = COCO_SIGMAS
    frequencies: tuple[str, ...] | None = None
    image_ids: list[int | str] = field(init=False, default_factory=list, repr=False)

    def __post_init__(self) -> None:
        choices = {"iou_type": OVERLAPS, "limit": ("class", "image")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}", hint=f"choose from {', '.join(known)}")
        self.max_dets, self.thresholds = tuple(self.max_dets), tuple(float(t) for t in self.thresholds)
        self.areas = dict(self.areas)
        if not self.max_dets or self.max_dets[0] < 1 or list(self.max_dets) != sorted(set(self.max_dets)):
            raise UserError(f"max_dets are {self.max_dets}", hint="give rising numbers from 1, such as (1, 10, 100)")
        if self.limit == "image" and len(self.max_dets) > 1:
            raise UserError(f"max_dets are {self.max_dets}", hint="give one number with limit='image'")
        if not self.thresholds or list(self.thresholds) != sorted(set(self.thresholds)) or self.thresholds[0] <= 0:
            raise UserError(f"thresholds are {self.thresholds}", hint="give rising numbers above 0, such as (.5, .75)")
        if not 1 <= len(self.areas) <= 32:
            raise UserError(f"there are {len(self.areas)} areas", hint="give 1 to 32 ranges by name, the first for all")
        if self.frequencies is not None and len(self.frequencies) != len(self.names):
            came = f"{len(self.names)} classes but {len(self.frequencies)} frequencies"
            raise UserError(f"there are {came}", hint="give r, c or f for each class")
        self._truths = np.zeros((len(self.names) if self.use_classes else 1, len(self.areas)), np.int64)
        self._numbers: dict[int | str, int] = {}
        self._waiting: list[tuple[Objects, Objects]] = []
        self._unsure: list[np.ndarray] = []
        self._columns: dict[str, list[np.ndarray]] = {f.name: [] for f in fields(Matched)}
        self._rows = 0
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}

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
        crowd: Sequence[bool] | np.ndarray | None = None,
        negatives: Iterable[int] | None = None,
        incomplete: Iterable[int] | None = None,
    ) -> None:
        """Adds one image, known by `image`: a number or name that occurs once, and orders what has equal scores.

        `crowd` flags true `Instances` that stand for many objects, in place of `Instances.crowd`. For LVIS, `negatives`
        are the labels known not to be in the image (found objects of labels that are neither these nor in the truth do
        not count), `incomplete` those of which the truth does not list every object (there, found objects without a
        partner do not count).
        """
        found = Objects.of_instances(pred) if isinstance(pred, Instances) else pred
        true = Objects.of_instances(truth, crowd) if isinstance(truth, Instances) else truth
        if self.iou_type == "keypoints" and true.keypoints is not None and true.ignore is None:
            true = replace(true, ignore=np.asarray((true.keypoints[..., 2] <= 0).all(1)))  # nobody labelled them
        checked = None if negatives is None else np.union1d(np.array([*negatives], np.int64), true.labels)
        unsure = None if incomplete is None else np.array([*incomplete], np.int64)
        self.update_many(found.of(0), true.of(0), [image], checked, unsure)

    def update_many(
        self,
        pred: Objects,
        truth: Objects,
        images: Sequence[int | str],
        checked: np.ndarray | None = None,
        unsure: np.ndarray | None = None,
    ) -> None:
        """Adds many images: `images[i]` is the number or name of image i in both tables.

        `checked` and `unsure` hold i * number of classes + label: which found objects count at all (None: all), and
        which of them are not wrong without a partner.
        """
        k, first = len(self.names), len(self.image_ids)
        new = {image: first + i for i, image in enumerate(images)}
        if len(new) < len(images) or new.keys() & self._numbers.keys():
            again = next(image for i, image in enumerate(images) if image in self._numbers or new[image] != first + i)
            raise UserError(f"image {again!r} came twice", hint="update once for each image, with everything in it")
        for part, side in ((pred, "prediction"), (truth, "truth")):
            check_objects(part, side, k, images)
        if pred.scores is None:
            raise UserError("the predictions have no scores", hint="give one score for each object")
        _check_sizes(pred, truth, images)
        if self.limit == "image":
            order, place = ranked(pred.image, pred.scores)
            pred = pred.take(np.sort(order[place < self.max_dets[-1]]))
        if checked is not None:
            pred = pred.take(np.isin(pred.image * k + pred.labels, checked))
        pred, truth = (replace(part, image=part.image + first) for part in (pred, truth))
        self._waiting.append((pred, truth))
        if unsure is not None:
            self._unsure.append(np.asarray(unsure) + first * k)
        self._numbers.update(new)
        self.image_ids.extend(images)
        self._cache.clear()
        if sum(len(pred) + len(truth) for pred, truth in self._waiting) >= _WAITING:
            self._match()

    def merge(self, other: AveragePrecision) -> None:
        """Adds the images of another part of the data; the order does not matter."""
        mine, theirs = self._settings(), other._settings()
        if mine != theirs:
            name = next(name for name in mine if mine[name] != theirs[name])
            message = f"cannot merge scores of different settings: {name} is {mine[name]} and {theirs[name]}"
            raise UserError(message, hint="use the same settings for every part")
        if twice := self._numbers.keys() & other._numbers.keys():
            again = next(image for image in other.image_ids if image in twice)
            raise UserError(f"image {again!r} is in both parts", hint="give every image to one part only")
        self._match()
        other._match()
        for name, column in other._columns.items():
            shift = {"image": len(self.image_ids), "rows": self._rows}.get(name)
            self._columns[name] += column if shift is None else [part + np.int32(shift) for part in column]
        self._rows += other._rows
        self._truths += other._truths
        self._numbers.update({image: len(self.image_ids) + i for i, image in enumerate(other.image_ids)})
        self.image_ids += other.image_ids
        self._cache.clear()

    def _settings(self) -> dict[str, object]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init and f.name != "classes"} | {
            "classes": self.names
        }

    def _match(self) -> None:
        """Match what is waiting; only what became of each object stays."""
        if not self._waiting:
            return
        pred, truth = (concat(tables) for tables in zip(*self._waiting, strict=True))
        k, unsure = len(self.names), np.concatenate(self._unsure) if self._unsure else None
        self._waiting, self._unsure = [], []
        ranges = np.array([*self.areas.values()], np.float64)
        matched = match(
            pred,
            truth,
            keypoint_overlap(self.sigmas) if self.iou_type == "keypoints" else OVERLAPS[self.iou_type],
            np.array(self.thresholds),
            ranges,
            self.max_dets[-1],
            k if self.use_classes else 0,
            unsure,
        )
        kind = truth.labels if self.use_classes else np.zeros(len(truth), np.int64)
        np.add.at(self._truths, kind, counted(truth, ranges))
        for name, column in self._columns.items():
            part = getattr(matched, name)
            column.append(part + np.int32(self._rows) if name == "rows" else part)
        self._rows += len(matched.scores)

    def _column(self, name: str) -> np.ndarray:
        """All entries of a field of `Matched`; its pieces become one."""
        column = self._columns[name]
        if len(column) > 1:
            column[:] = [np.concatenate(column)]
        if column:
            return column[0]
        words = -(-len(self.areas) * len(self.thresholds) // 64)
        return np.zeros((0, words), np.uint64) if name in ("hits", "spared") else np.zeros(0, np.int64)

    def precision_recall(self, max_det: int | None = None) -> tuple[Precision, Recall]:
        """Precision by threshold, recall (0, .01, ... 1), class and area; recall reached by threshold, class and area.

        -1 where there is nothing to find, as in `COCOeval.eval`. `max_det` is one of `max_dets`, the last by default.
        """
        limit = self.max_dets[-1] if max_det is None else max_det
        if limit not in self.max_dets:
            raise UserError(f"max_det is {limit}", hint=f"choose from {', '.join(map(str, self.max_dets))}")
        self._match()
        if limit not in self._cache:
            self._cache[limit] = self._accumulate(limit)
        return self._cache[limit]

    def _accumulate(self, limit: int) -> tuple[Precision, Recall]:
        t, (k, a) = len(self.thresholds), self._truths.shape
        precision, recall = -np.ones((t, len(RECALLS), k, a)), -np.ones((t, k, a))
        image, scores, rank = self._column("image"), self._column("scores"), self._column("rank")
        outside, rows = self._column("outside"), self._column("rows")
        hits, spared = self._column("hits"), self._column("spared")
        labels = self._column("labels") if self.use_classes else np.zeros(len(scores), np.int32)
        seat = seats(self.image_ids)  # None where images came in order
        where = np.full(len(scores), -1, np.int32)
        where[rows] = np.arange(len(rows), dtype=np.int32)
        by_class = np.argsort(labels.astype(np.min_scalar_type(k)), kind="stable")
        ends = np.cumsum(np.bincount(labels, minlength=k)).tolist()
        for label, truths in enumerate(self._truths):
            if not truths.any():
                continue
            mine = by_class[ends[label - 1] if label else 0 : ends[label]]
            mine = mine[rank[mine] < limit]
            ties = () if seat is None else (seat[image[mine]],)
            mine = mine[np.lexsort((*ties, -scores[mine]))]
            row = where[mine]
            at = np.flatnonzero(row >= 0)
            beyond, right, without = outside[mine], hits[row[at]], spared[row[at]]
            for area in np.flatnonzero(truths).tolist():
                bits = range(area * t, area * t + t)
                got, best = _envelope(at, beyond >> area & 1 == 0, _unpack(right, bits), _unpack(without, bits))
                reached = np.arange(truths[area] + 1) / truths[area]  # recall with 0, 1, 2 ... found
                need = np.searchsorted(reached, RECALLS).clip(1, len(best) - 1)
                precision[:, :, label, area] = best[need].T
                recall[:, label, area] = got / truths[area]
        return precision, recall

    def _recall(self, limit: int) -> Float64[np.ndarray, "t k"]:
        """The recall of `precision_recall(limit)` in the first area, which is only counting."""
        t, rows = len(self.thresholds), self._column("rows")
        near = self._column("rank")[rows] < limit
        right = _unpack(self._column("hits")[near], range(t))
        labels = self._column("labels")[rows[near]] if self.use_classes else np.zeros(near.sum(), np.int64)
        got = np.zeros((len(self._truths), t))
        np.add.at(got, labels, right)
        truths = self._truths[:, :1]
        return np.where(truths > 0, got / np.maximum(truths, 1), -1.0).T

    def compute(self) -> dict[str, float]:
        """ap, ap50, ap75, ap_<area>, ar@<max_det>, ar_<area> and ap/<class>; NaN where there was nothing to find."""
        scores = {line.key: line.value for line in self._scores()}
        if self.use_classes:
            precision = self.precision_recall()[0][:, :, :, 0]
            scores |= {f"ap/{name}": _mean(precision[:, :, i]) for i, name in enumerate(self.names)}
        return scores

    def summary(self) -> str:
        """The lines of `COCOeval.summarize` (of `LVISEval.print_results` where classes have frequencies)."""
        return "\n".join(line.text(self.frequencies is not None) for line in self._scores())

    def table(self) -> list[dict[str, float | int | str]]:
        """One row per class: AP, at IoU .5 and .75, by area, the recall reached, and the number of true objects."""
        precision, recall = self.precision_recall()
        rows: list[dict[str, float | int | str]] = []
        for i, name in enumerate(self.names if self.use_classes else ("all classes",)):
            row: dict[str, float | int | str] = {"class": name, "ap": _mean(precision[:, :, i, 0])}
            row |= {f"ap{round(100 * self.thresholds[t])}": _mean(precision[t, :, i, 0]) for t in self._usual()}
            row |= {f"ap_{area}": _mean(precision[:, :, i, a]) for a, area in enumerate(self.areas) if a}
            rows.append({**row, "ar": _mean(recall[:, i, 0]), "truths": int(self._truths[i, 0])})
        return rows

    def curves(self) -> list[Curve]:
        """Precision over recall: means over classes at IoU .5, .75 and all thresholds, then each class at the first."""
        precision = self.precision_recall()[0][:, :, :, 0]
        seen = np.flatnonzero(precision[0, 0] > -1)
        if not len(seen):
            return []
        low, high = self.thresholds[0], self.thresholds[-1]
        lines = [(f"IoU {self.thresholds[t]:.2f}", precision[t][:, seen].mean(1)) for t in self._usual()]
        lines.append((f"IoU {low:.2f} to {high:.2f}", precision[:, :, seen].mean((0, 2))))
        names = self.names if self.use_classes else ("all classes",)
        groups = [("mean over classes", name, y) for name, y in lines]
        groups += [(f"classes at IoU {low:.2f}", names[i], precision[0, :, i]) for i in seen.tolist()]
        return [Curve(name, RECALLS, y, "recall", "precision", group) for group, name, y in groups]

    def _usual(self) -> list[int]:
        """Which thresholds are .5 and .75."""
        return [t for t, value in enumerate(self.thresholds) if min(abs(value - 0.5), abs(value - 0.75)) < 1e-9]

    def _scores(self) -> list[_Score]:
        names, last = [*self.areas], self.max_dets[-1]
        precision, recall = self.precision_recall()
        span = f"{self.thresholds[0]:0.2f}:{self.thresholds[-1]:0.2f}"
        usual = [(f"{round(100 * self.thresholds[t])}", f"{self.thresholds[t]:0.2f}", t) for t in self._usual()]
        out = [_Score("ap", span, names[0], last, _mean(precision[..., 0]))]
        out += [_Score(f"ap{short}", iou, names[0], last, _mean(precision[t, ..., 0])) for short, iou, t in usual]
        out += [_Score(f"ap_{n}", span, n, last, _mean(precision[..., a])) for a, n in enumerate(names) if a]
        if self.frequencies is not None:
            for letter, word in FREQUENCIES.items():
                some = [i for i, frequency in enumerate(self.frequencies) if frequency == letter]
                out.append(_Score(f"ap_{word}", span, names[0], last, _mean(precision[:, :, some, 0]), letter))
        for limit in self.max_dets:
            reached = recall[..., 0] if limit == last else self._recall(limit)
            out.append(_Score(f"ar@{limit}", span, names[0], limit, _mean(reached)))
        if self.iou_type == "keypoints":
            out += [_Score(f"ar{short}", iou, names[0], last, _mean(recall[t, ..., 0])) for short, iou, t in usual]
        return out + [_Score(f"ar_{n}", span, n, last, _mean(recall[..., a])) for a, n in enumerate(names) if a]


def keypoint_ap(classes: Classes | int, sigmas: tuple[int | float, ...] = COCO_SIGMAS) -> AveragePrecision:
    """COCO's AP of keypoints: at most 20 persons an image, no small ones."""
    areas = {name: bounds for name, bounds in COCO_AREAS.items() if name != "small"}
    return AveragePrecision(classes, "keypoints", max_dets=(20,), areas=areas, sigmas=sigmas)


def lvis_ap(classes: Classes | int, frequencies: Sequence[str], iou_type: str = "mask") -> AveragePrecision:
    """LVIS's AP (Gupta et al., 2019; `lvis.LVISEval`): 300 objects an image, means over rare to frequent classes.

    Its truth is federated: `update` takes the labels that are known to be absent, and those not listed completely.
    """
    return AveragePrecision(classes, iou_type, (300,), limit="image", frequencies=tuple(frequencies))


@dataclass(frozen=True)
class _Score:
    """A number of the summary and what it is of."""

    key: str
    iou: str
    area: str
    limit: int
    value: float
    frequency: str = "all"

    def text(self, lvis: bool) -> str:
        what = "Average Precision  (AP)" if self.key.startswith("ap") else "Average Recall     (AR)"
        area = self.area[:1] if lvis and self.area != "all" else self.area
        classes = f" catIds={self.frequency:>3s}" if lvis else " "
        value = -1.0 if np.isnan(self.value) else self.value
        return f" {what} @[ IoU={self.iou:<9} | area={area:>6s} | maxDets={self.limit:>3d}{classes}] = {value:0.3f}"


def check_objects(objects: Objects, side: str, classes: int, images: Sequence[int | str]) -> None:
    """Refuse labels that do not exist and scores that are no numbers."""
    if len(objects) and not 0 <= objects.image.min() <= objects.image.max() < len(images):
        raise UserError(f"the {side} has an object of an image beyond the {len(images)} that came")
    wrong = (objects.labels < 0) | (objects.labels >= classes)
    if wrong.any():
        i = int(wrong.argmax())
        message = f"image {images[objects.image[i]]!r}: the {side} has the label {objects.labels[i]}"
        raise UserError(message, hint=f"labels are 0..{classes - 1}")
    if objects.scores is not None and not np.isfinite(objects.scores).all():
        i = int((~np.isfinite(objects.scores)).argmax())
        message = f"image {images[objects.image[i]]!r}: a prediction has the score {objects.scores[i]}"
        raise UserError(message, hint="scores are finite numbers")


def _check_sizes(pred: Objects, truth: Objects, images: Sequence[int | str]) -> None:
    """All masks of an image are of one size."""
    parts = [(part.image, part.masks) for part in (truth, pred) if part.masks is not None]
    image = np.concatenate([np.zeros(0, np.int64), *(image for image, _ in parts)])
    size = np.concatenate(
        [np.zeros((0, 2), np.int64), *(np.stack([masks.heights, masks.widths], 1) for _, masks in parts)]
    )
    _, first, number = np.unique(image, return_index=True, return_inverse=True)
    wrong = (size != size[first[number]]).any(1)
    if wrong.any():
        i = int(wrong.argmax())
        (h, w), (height, width) = size[i], size[first[number[i]]]
        message = f"image {images[image[i]]!r} has masks of {h}x{w} and of {height}x{width}"
        raise UserError(message, hint="masks of the prediction and of the truth are of the size of the image")


def _envelope(
    at: Int[np.ndarray, " m"],
    alone: Bool[np.ndarray, " n"],
    right: Bool[np.ndarray, "m t"],
    spared: Bool[np.ndarray, "m t"],
) -> tuple[Int[np.ndarray, " t"], Float64[np.ndarray, "found t"]]:
    """Of one class, best score first: how many are right, and the best precision with at least 0, 1, 2 ... right.

    `alone` says which count where they have no partner; those with one, at places `at`, are right or spared. Only where
    something is right can precision be best, so of all the others only their number is needed.
    """
    moved = (right | (alone[at, None] & ~spared)).astype(np.int8) - alone[at, None]
    number = np.cumsum(alone, dtype=np.int32)[at, None] + np.cumsum(moved, 0, dtype=np.int32)
    found = np.cumsum(right, 0, dtype=np.int32)
    got = found[-1] if len(at) else np.zeros(right.shape[1], np.int32)
    best = np.zeros((int(got.max(initial=0)) + 2, right.shape[1]))
    where = np.nonzero(right)
    best[found[where], where[1]] = found[where] / (number[where] + np.spacing(1))
    return got, np.maximum.accumulate(best[::-1])[::-1]


def _unpack(bits: UInt64[np.ndarray, "m words"], wanted: range) -> Bool[np.ndarray, "m b"]:
    """These bits of each row."""
    flag = np.array(wanted)
    return (bits[:, flag // 64] >> (flag % 64).astype(np.uint64) & np.uint64(1)).astype(bool)


def _mean(values: np.ndarray) -> float:
    """The mean of what is defined; NaN where nothing is."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def seats(images: Sequence[int | str]) -> np.ndarray | None:
    """The place of each image in sorted order (numbers first), which decides ties; None where they came so."""
    keys = [(isinstance(image, str), image) for image in images]
    if all(a < b for a, b in itertools.pairwise(keys)):
        return None
    seats = np.empty(len(keys), np.int64)
    seats[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return seats
