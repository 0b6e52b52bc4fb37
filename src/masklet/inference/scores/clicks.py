"""Clicks in files against the objects that they were meant for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import Bool
from torch import Tensor

from masklet.data.click_records import ClickFolder, click_folders, read_click_records, read_objects
from masklet.data.images import read_labels
from masklet.metrics.clicks import ClickScore
from masklet.structures import UserError
from masklet.structures.errors import missing_of

__all__ = ["score_noc"]


def score_noc(
    predictions: Path,
    truth: Path,
    *,
    clicks: int = 20,
    targets: float | Sequence[float] = (0.85, 0.9),
    ignore: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ClickScore:
    """Mean IoU over clicks and number of clicks, from IoUs or from masks.

    Two JSON files: `predictions` has a record {"image", "object", "ious"} (and "dataset") per object, `truth` says
    which objects there are: COCO annotations, or records too. Two folders: `truth` holds one mask picture per object,
    `NAME.png` (not 0 is the object, `ignore` counts nowhere), `predictions` its mask after each click, `NAME/1.png`,
    `NAME/2.png`, ...; folders in between are data sets.
    """
    if not predictions.exists() or not truth.exists():
        missing = truth if predictions.exists() else predictions
        raise UserError(f"{missing} does not exist", hint="name two JSON files or two folders")
    if predictions.is_dir() != truth.is_dir():
        a, b = ("a folder" if path.is_dir() else "a file" for path in (predictions, truth))
        raise UserError(f"{predictions} is {a} but {truth} is {b}", hint="give two JSON files or two folders")
    score = ClickScore(clicks, (targets,) if isinstance(targets, int | float) else tuple(targets))
    if predictions.is_dir():
        folders = click_folders(predictions, truth)
        for done, folder in enumerate(folders, 1):
            score.update(_ious(folder, clicks, ignore), dataset=folder.dataset)
            if progress is not None:
                progress(done, len(folders))
        return score
    records, objects = read_click_records(predictions), read_objects(truth)
    known = {thing.key: thing for thing in objects}
    if unknown := [r for r in records if r.key not in known]:
        raise UserError(f"{predictions}: {unknown[0]} is not in {truth}", hint="score the objects of the truth")
    found = {record.key for record in records}
    if missed := [thing for thing in objects if thing.key not in found]:
        more = missing_of(missed, objects)
        raise UserError(f"{predictions} has no {missed[0]}{more}", hint="give a record for every object")
    for done, record in enumerate(records, 1):
        try:
            score.update(record.ious, dataset=record.dataset or known[record.key].dataset)
        except UserError as error:
            raise UserError(f"{predictions}: {record}: {error.message}", error.hint) from error
        if progress is not None:
            progress(done, len(records))
    return score


def _ious(folder: ClickFolder, clicks: int, ignore: int | None) -> list[float]:
    """IoU of the mask after each click."""
    values = read_labels(folder.truth)
    true, counts = values != 0, values != (-1 if ignore is None else ignore)
    true &= counts
    if not true.any():
        raise UserError(f"{folder.truth}: the truth mask is empty", hint="leave out objects that are not there")
    return [_iou(path, true, counts) for path in folder.masks[:clicks]]


def _iou(path: Path, true: Bool[Tensor, "h w"], counts: Bool[Tensor, "h w"]) -> float:
    mask = read_labels(path) != 0
    if mask.shape != true.shape:
        (h, w), (height, width) = mask.shape, true.shape
        raise UserError(f"{path} is {h}x{w} but its truth is {height}x{width}", hint="resize it to the image")
    mask &= counts
    return (mask & true).sum().item() / (mask | true).sum().item()
