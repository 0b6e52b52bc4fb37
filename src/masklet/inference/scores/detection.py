"""Lists of found objects in files against COCO's truth files, whoever wrote them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from masklet.data.coco import CocoRows, CocoTruth, kind_of_results, parse_results, parse_truth, pieces, read_json
from masklet.metrics.ap import COCO_AREAS, AveragePrecision
from masklet.metrics.ap_overlap import COCO_SIGMAS
from masklet.metrics.voc_ap import VocAP
from masklet.structures.errors import UserError

__all__ = ["score_ap", "score_tables", "score_voc_ap"]

ROWS = {"box": 100_000, "keypoints": 50_000, "mask": 10_000, "boundary": 10_000}  # that are in memory at once


def score_ap(
    predictions: Path,
    truth: Path,
    *,
    iou_type: str | None = None,
    max_dets: Sequence[int] | None = None,
    use_classes: bool = True,
    federated: bool | None = None,
    sigmas: Sequence[int | float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AveragePrecision:
    """AP and AR of a COCO results file against a COCO truth file, as pycocotools computes them.

    iou_type is box, mask, boundary or keypoints; without it, what the first result has: keypoints, masks, else boxes.
    max_dets are 1, 10 and 100 (20 for keypoints) where not given. Truth in LVIS's format, which tells what was not
    annotated, is scored by LVIS's rules unless federated=false.
    """
    found = read_json(predictions)
    kind = kind_of_results(found, predictions) if iou_type is None else iou_type
    if kind not in ROWS:
        raise UserError(f"iou_type is {kind!r}", hint=f"choose from {', '.join(ROWS)}")
    read = "mask" if kind == "boundary" else kind
    known = parse_truth(read_json(truth), read, truth)
    results = parse_results(found, known, read, predictions)
    del found
    return score_tables(
        results,
        known,
        kind,
        max_dets=max_dets,
        use_classes=use_classes,
        federated=federated,
        sigmas=sigmas,
        progress=progress,
    )


def score_tables(
    results: CocoRows,
    truth: CocoTruth,
    iou_type: str,
    *,
    max_dets: Sequence[int] | None = None,
    use_classes: bool = True,
    federated: bool | None = None,
    sigmas: Sequence[int | float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AveragePrecision:
    """`score_ap` of what has been read already; only a part of the masks is in memory at a time."""
    federated = truth.absent is not None if federated is None else federated
    if federated and (truth.absent is None or truth.incomplete is None):
        raise UserError(
            "the truth does not tell which classes were checked", hint="LVIS has neg_category_ids in images"
        )
    settings: dict[str, Any] = {"use_classes": use_classes, "sigmas": tuple(sigmas or COCO_SIGMAS)}
    if federated:
        settings |= {"max_dets": (300,), "limit": "image", "frequencies": truth.frequencies}
    elif iou_type == "keypoints":
        areas = {name: bounds for name, bounds in COCO_AREAS.items() if name != "small"}
        settings |= {"max_dets": (20,), "areas": areas}
    if max_dets is not None:
        settings["max_dets"] = tuple(max_dets)
    score = AveragePrecision(truth.classes, iou_type, **settings)
    for low, high in pieces(truth, results, ROWS[iou_type]):
        true = truth.objects(low, high)
        checked = unsure = None
        if federated:
            assert truth.absent is not None
            assert truth.incomplete is not None
            k = len(truth.classes)
            checked = np.union1d(_keys(truth.absent[low:high], k), true.image * k + true.labels)
            unsure = _keys(truth.incomplete[low:high], k)
        score.update_many(results.objects(low, high), true, truth.ids[low:high], checked, unsure)
        if progress is not None:
            progress(high, len(truth.ids))
    return score


def score_voc_ap(
    predictions: Path,
    truth: Path,
    *,
    threshold: float = 0.5,
    points: str = "area",
    progress: Callable[[int, int], None] | None = None,
) -> VocAP:
    """PASCAL VOC's AP of boxes in a COCO results file against a COCO truth file.

    points is area (VOC 2010) or eleven (VOC 2007). Annotations with "difficult": 1 or "iscrowd": 1 do not count.
    """
    known = parse_truth(read_json(truth), "box", truth)
    results = parse_results(read_json(predictions), known, "box", predictions)
    score = VocAP(known.classes, threshold, points)
    difficult = np.array(known.rows.column("difficult", 0), bool)
    table = replace(known.table, ignore=difficult | known.table.crowd)
    score.update_many(results.table, table, known.ids)
    if progress is not None:
        progress(len(known.ids), len(known.ids))
    return score


def _keys(labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """Image * classes + label of a list of labels per image."""
    count = [len(some) for some in labels]
    flat = np.array([label for some in labels for label in some], np.int64)
    return np.repeat(np.arange(len(labels)), count) * classes + flat
