"""Label maps in files against label maps in files, whoever wrote them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import Integer
from torch import Tensor

from masklet.data.images import list_images, read_labels
from masklet.data.sources import Dataset
from masklet.metrics.semantic import SemanticScore
from masklet.structures import Classes, Sample
from masklet.structures.errors import UserError, missing_of

__all__ = ["existing_folder", "find_partners", "score_miou"]

SUFFIXES = ("", "_index", "_pred", "_prediction")  # that other programs put after the name of the truth file


def score_miou(
    predictions: Path,
    truth: Path | Dataset,
    *,
    classes: Classes | Sequence[str] | int | None = None,
    ignore: int = 255,
    mode: str = "dataset",
    absent: str = "skip",
    progress: Callable[[int, int], None] | None = None,
) -> SemanticScore:
    """The score of a folder of index pictures, one per truth file of the same name (`a.png` or `a_index.png` for `a`).

    `truth` is a folder of index pictures or an opened data set, whose reader knows what its values mean. Without
    `classes` a folder has as many as its highest label asks for. Files without a partner in the truth are left alone.
    """
    if isinstance(truth, Path):
        files = list_images(existing_folder(truth))
        partners = find_partners(predictions, files)
        if classes is None:
            classes = 1 + max(_highest(read_labels(path), ignore) for path in (*partners, *files))
        maps = map(read_labels, files)
    else:
        partners = find_partners(predictions, [truth.paths(i)[0] for i in range(len(truth))])
        classes, ignore, maps = truth.classes, truth.classes.ignore, map(_labels, truth)
    if not isinstance(classes, Classes | int):
        classes = Classes(tuple(classes))
    score = SemanticScore(classes, ignore=ignore, mode=mode, absent=absent)
    for done, (partner, labels) in enumerate(zip(partners, maps, strict=True), 1):
        try:
            score.update(read_labels(partner), labels)
        except ValueError as error:
            raise UserError(f"{partner}: {error}") from error  # which of the files
        if progress is not None:
            progress(done, len(partners))
    return score


def find_partners(predictions: Path, files: Sequence[Path]) -> list[Path]:
    """The prediction for each file; none may be missing."""
    if not files:
        raise UserError("the truth holds no label pictures", hint="they should be index pictures, for example PNG")
    there = {path.stem: path for path in list_images(existing_folder(predictions))}
    found = [next((there[f.stem + s] for s in SUFFIXES if f.stem + s in there), None) for f in files]
    if missing := [file.stem for file, partner in zip(files, found, strict=True) if partner is None]:
        more = missing_of(missing, files)
        raise UserError(
            f"{predictions} has no prediction for {missing[0]!r}{more}",
            hint=f"call it {missing[0]}.png or {missing[0]}_index.png",
        )
    return [partner for partner in found if partner is not None]


def _labels(sample: Sample) -> Tensor:
    if sample.semantic is None:
        raise UserError(f"{sample.name} has no label map", hint="score against data with masks")
    return sample.semantic


def existing_folder(path: Path) -> Path:
    """The path, if it is a folder."""
    if not path.is_dir():
        raise UserError(
            f"{path} is not a folder" if path.exists() else f"{path} does not exist",
            hint="name the folder of the pictures",
        )
    return path


def _highest(labels: Integer[Tensor, "h w"], ignore: int) -> int:
    """The highest label that is not ignored; 0 where there is none."""
    known = labels[labels != ignore]
    return int(known.max()) if known.numel() else 0
