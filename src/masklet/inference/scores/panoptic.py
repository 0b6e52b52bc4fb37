"""COCO panoptic files against COCO panoptic files: a JSON of segments and a folder of PNGs on either side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

from masklet.data.coco_panoptic import Annotation, read_ids, read_panoptic_json
from masklet.data.images import BadFile
from masklet.metrics.human_consistency import HumanConsistency
from masklet.metrics.panoptic import Outcomes, PanopticScore
from masklet.structures import Classes
from masklet.structures.errors import UserError, missing_of

__all__ = ["score_human_consistency", "score_pq"]

Pair = tuple[Annotation, Annotation]  # prediction, truth
T = TypeVar("T")
PORTION = 256


def score_pq(
    predictions: Path,
    truth: Path,
    *,
    threshold: float = 0.5,
    alpha: float = 0.5,
    sizes: Sequence[int | float] | None = None,
    prediction_pngs: str = "",
    truth_pngs: str = "",
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PanopticScore:
    """PQ of predictions in the format of COCO panoptic, as panopticapi computes it.

    Either side is a JSON whose PNGs lie in a folder of its name, or that folder. Categories come from the truth, and
    predictions for images that the truth does not have are left alone. `sizes` are the areas in pixels up to which a
    segment is small and medium; quartiles if not given. `threads` decode at once (0: one per processor).
    """
    classes, pairs = _pairs(predictions, truth, prediction_pngs, truth_pngs)
    score = PanopticScore(classes, threshold, alpha, _areas(sizes))
    for outcomes in _counted(pairs, threads, partial(_count, score), progress):
        score.add(outcomes)
    return score


def score_human_consistency(
    predictions: Path,
    truth: Path,
    *,
    threshold: float = 0.5,
    alpha: float = 0.5,
    sizes: Sequence[int | float] | None = None,
    prediction_pngs: str = "",
    truth_pngs: str = "",
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HumanConsistency:
    """How far two people agree: the files of one as predictions, those of the other as truth; the order is no matter.

    The same files and options as `score_pq`, with every image scored both ways.
    """
    classes, pairs = _pairs(predictions, truth, prediction_pngs, truth_pngs)
    humans = HumanConsistency(classes, threshold, alpha, _areas(sizes))
    for first, second in _counted(pairs, threads, partial(_count_both, humans), progress):
        humans.add(first, second)
    return humans


def _areas(sizes: Sequence[int | float] | None) -> tuple[int | float, int | float] | None:
    if sizes is None:
        return None
    if isinstance(sizes, str) or not isinstance(sizes, Sequence) or len(sizes) != 2:
        raise UserError(f"sizes are {sizes!r}", hint="give two areas in pixels, for example [1024, 9216]")
    return sizes[0], sizes[1]


def _pairs(predictions: Path, truth: Path, prediction_pngs: str, truth_pngs: str) -> tuple[Classes, list[Pair]]:
    """The classes of the truth, and for each of its annotations the one of the prediction."""
    truth, predictions = _json(truth), _json(predictions)
    classes, true = read_panoptic_json(truth, Path(truth_pngs) if truth_pngs else None)
    _, found = read_panoptic_json(predictions, Path(prediction_pngs) if prediction_pngs else None, classes)
    if not true:
        raise UserError(f"{truth}: it has no annotations", hint="name the JSON of the truth")
    by_image = {annotation.image_id: annotation for annotation in found}
    if missing := [a.image_id for a in true if a.image_id not in by_image]:
        raise UserError(
            f"{predictions}: no prediction for image {missing[0]}{missing_of(missing, true)}",
            hint="predict every image; one without segments has a black PNG and an empty segments_info",
        )
    pairs = [(by_image[a.image_id], a) for a in true]
    for option, side in zip(("prediction_pngs", "truth_pngs"), zip(*pairs, strict=True), strict=True):
        if gone := [a for a in side if not a.png.is_file()]:
            raise UserError(
                f"{gone[0].png}: the PNG of image {gone[0].image_id} does not exist{missing_of(gone, side)}",
                hint=f"PNGs lie in a folder named as the JSON, less .json; {option} names another one",
            )
    return classes, pairs


def _json(path: Path) -> Path:
    """The JSON itself, also where the folder of its PNGs was named."""
    beside = path.with_name(f"{path.name}.json")
    return beside if path.is_dir() and beside.is_file() else path


def _counted(
    pairs: list[Pair],
    threads: int,
    count: Callable[[Pair], T],
    progress: Callable[[int, int], None] | None,
) -> Iterator[T]:
    """`count` of every pair, in order; files are decoded in threads, and nothing but the counts is kept."""
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        portions = (pairs[i : i + PORTION] for i in range(0, len(pairs), PORTION))  # a future for each would add up
        for done, result in enumerate(chain.from_iterable(pool.map(count, portion) for portion in portions), 1):
            yield result
            if progress is not None:
                progress(done, len(pairs))


def _count(score: PanopticScore, pair: Pair) -> Outcomes:
    found, true = pair
    with _naming(pair):
        return score.count(read_ids(found.png), found.segments, read_ids(true.png), true.segments)


def _count_both(humans: HumanConsistency, pair: Pair) -> tuple[Outcomes, Outcomes]:
    one, other = pair
    with _naming(pair):
        ones, others = read_ids(one.png), read_ids(other.png)
        second = humans.second.count(ones, one.segments, others, other.segments)  # an error calls them as the user does
        return humans.first.count(others, other.segments, ones, one.segments), second


@contextmanager
def _naming(pair: Pair) -> Iterator[None]:
    """Says in an error which image it is about; an error that names its file is left as it is."""
    try:
        yield
    except BadFile:
        raise
    except UserError as error:
        found, true = pair
        where = f"image {true.image_id} (prediction {found.png}, truth {true.png})"
        raise UserError(f"{where}: {error.message}", error.hint) from None
