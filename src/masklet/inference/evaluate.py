"""How well a model does on a data set: predicts every sample as a user would and counts what agrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from masklet.data.rgbd import picture_of, seen_as
from masklet.data.sources import Dataset
from masklet.inference.evaluate_objects import measure_objects
from masklet.inference.image import MANY, Predictor, Settings, placed
from masklet.metrics.semantic import SemanticScore
from masklet.structures import Classes, Sample, SemanticMap
from masklet.structures.errors import UserError

Each = Callable[[Sample, SemanticMap, Mapping[str, float]], None]


def evaluate(
    model: Any,
    dataset: Dataset | Sequence[Sample],
    *,
    mode: str = "dataset",
    absent: str = "skip",
    max_dets: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> dict[str, float]:
    """The scores of a model on a data set with truth, predicted with the `settings` of `predict`.

    One class per pixel (`measure`; `mode` and `absent` are for these): miou, pixel_accuracy, dice, iou/<class>, ...
    Objects (`measure_objects`; at most `max_dets` of a class and image): ap, ap50, ap/<class>, box_ap, keypoint_ap, ...
    """
    model, _ = placed(model, settings.get("device", "auto"))
    if hasattr(model, "scores"):
        if max_dets is not None:
            raise UserError("max_dets is for models that find objects", hint="this one gives one class per pixel")
        return measure(model, dataset, mode=mode, absent=absent, progress=progress, **settings).compute()
    if (mode, absent) != ("dataset", "skip"):
        raise UserError("mode and absent are for one class per pixel", hint="this model finds objects; leave them out")
    return measure_objects(model, dataset, max_dets=max_dets, progress=progress, **settings).compute()


def measure(
    model: Any,
    dataset: Dataset | Sequence[Sample],
    *,
    mode: str = "dataset",
    absent: str = "skip",
    progress: Callable[[int, int], None] | None = None,
    each: Each | None = None,
    **settings: Any,
) -> SemanticScore:
    """The counts of a model on a data set: `.compute()` gives the scores, `.confusion` the table of classes.

    Pictures are predicted at their own size with the `settings` of `predict`. Truth of a class that the data set
    leaves unscored is ignored, and the model may not choose such a class. `mode` and `absent` are explained at
    `SemanticScore`. `progress(done, total)` is called after every picture, `each(sample, result, scores)` with the
    picture's own scores.
    """
    if not len(dataset):
        raise UserError("there is nothing to evaluate", hint="the data set is empty; check path and split")
    predictor = Predictor(model, Settings(**settings), many=len(dataset) >= MANY)
    classes = getattr(dataset, "classes", None) or dataset[0].classes or predictor.model.classes
    _same_classes(classes, predictor.model.classes)
    predictor.barred = classes.unscored
    dataset = seen_as(dataset, getattr(predictor.model, "depth_as", None))
    total = SemanticScore(classes, ignore=classes.ignore, mode=mode, absent=absent)
    batch = predictor.settings.batch
    for start in range(0, len(dataset), batch):
        samples = [_labelled(dataset[i], i) for i in range(start, min(start + batch, len(dataset)))]
        results = predictor([picture_of(sample) for sample, _ in samples])
        for done, ((sample, truth), result) in enumerate(zip(samples, results, strict=True), start + 1):
            total.update(result.labels, truth)
            if each is not None:
                alone = SemanticScore(classes, ignore=classes.ignore, absent=absent)
                alone.update(result.labels, truth)
                each(sample, result, alone.compute())
            if progress is not None:
                progress(done, len(dataset))
    return total


def _same_classes(data: Classes, model: Classes) -> None:
    """Labels mean the same on both sides, or the model's classes have no names yet."""
    if len(data) != len(model):
        raise UserError(
            f"the data has {len(data)} classes ({', '.join(data.names)}) but the model {len(model)} "
            f"({', '.join(model.names)})",
            hint="evaluate a model that was trained for these classes",
        )
    unnamed = Classes.default(len(model)).names
    if data.names != model.names and model.names != unnamed and data.names != unnamed:
        i = next(i for i, (a, b) in enumerate(zip(data.names, model.names, strict=True)) if a != b)
        raise UserError(
            f"class {i} is {data.names[i]!r} in the data but {model.names[i]!r} in the model",
            hint="evaluate a model that was trained for these classes, in this order",
        )


def _labelled(sample: Sample, index: int) -> tuple[Sample, Tensor]:
    if sample.semantic is None:
        raise UserError(f"{sample.name or f'sample {index}'} has no label map", hint="evaluate data that has truth")
    return sample, sample.semantic
