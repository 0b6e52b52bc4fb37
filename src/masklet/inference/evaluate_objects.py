"""How well a model finds objects: average precision of its masks, boxes and keypoints on a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from masklet.data.sources import Dataset
from masklet.inference.image import MANY, Predictor, Settings
from masklet.metrics.ap import AveragePrecision, keypoint_ap
from masklet.structures import Classes, Curve, Instances, Sample
from masklet.structures.errors import UserError

COCO_LIMIT = 100  # objects of a class in an image that COCO's tools look at


@dataclass
class ObjectScores:
    """COCO's AP of every kind of answer that both the model and the truth give; run lengths are all that is kept.

    `compute()` has ap, ap50, ap75, ... and ap/<class> of the masks (of the boxes where there are none), box_ap, ...
    of the boxes, and keypoint_ap, ... of the points, by OKS.
    """

    classes: Classes
    max_dets: int = COCO_LIMIT
    parts: dict[str, AveragePrecision] = field(init=False, default_factory=dict)
    images: int = field(init=False, default=0)

    def update(self, pred: Instances, truth: Instances, image: str) -> None:
        """Adds one image; names that come twice are told apart by their number."""
        wanted = ["box"]
        wanted += ["mask"] if pred.masks is not None and truth.masks is not None else []
        wanted += ["keypoints"] if pred.keypoints is not None and truth.keypoints is not None else []
        for kind in wanted:
            if kind not in self.parts:
                self.parts[kind] = self._new(kind)
            self.parts[kind].update(pred, truth, image=f"{self.images:09d} {image}")
        self.images += 1

    def _new(self, kind: str) -> AveragePrecision:
        if kind == "keypoints":
            return keypoint_ap(self.classes)
        limits = tuple(n for n in (1, 10, 100) if n < self.max_dets)
        return AveragePrecision(self.classes, kind, (*limits, self.max_dets))

    @property
    def main(self) -> AveragePrecision:
        """That of the masks, or of the boxes where there are no masks."""
        return self.parts.get("mask") or self.parts.get("box") or self._new("box")

    def compute(self) -> dict[str, float]:
        scores = self.main.compute()
        for kind, name in (("box", "box"), ("keypoints", "keypoint")):
            if kind in self.parts:
                found = self.parts[kind].compute()
                scores |= {f"{name}_{key}": value for key, value in found.items() if "/" not in key}
        return scores

    def summary(self) -> str:
        """The lines of `COCOeval.summarize`, for each kind of answer."""
        return "\n".join(f"{kind}\n{part.summary()}" for kind, part in self.parts.items())

    def table(self) -> list[dict[str, float | int | str]]:
        """One row per class."""
        return self.main.table()

    def curves(self) -> list[Curve]:
        """Precision over recall."""
        return self.main.curves()


def measure_objects(
    model: Any,
    dataset: Dataset | Sequence[Sample],
    *,
    max_dets: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> ObjectScores:
    """The average precision of a model that finds objects; `settings` are those of `predict`.

    At most `max_dets` objects of a class count in an image: by default COCO's 100, or as many as the model gives where
    that is more. Equal to `COCOeval` on the same objects, whose areas are those of their masks.
    """
    if not len(dataset):
        raise UserError("there is nothing to evaluate", hint="the data set is empty; check path and split")
    predictor = Predictor(model, Settings(**settings), many=len(dataset) >= MANY)
    given = getattr(predictor.model, "spec", {}).get("options", {}).get("max_objects", COCO_LIMIT)
    classes = getattr(dataset, "classes", None) or predictor.model.classes
    scores = ObjectScores(classes, max(COCO_LIMIT, given) if max_dets is None else max_dets)
    for i in range(len(dataset)):
        sample = dataset[i]
        if sample.instances is None:
            raise UserError(f"{sample.name or f'sample {i}'} has no objects", hint="evaluate data that has truth")
        found = predictor([sample.image])[0]
        scores.update(found, sample.instances, sample.name)
        if progress is not None:
            progress(i + 1, len(dataset))
    return scores
