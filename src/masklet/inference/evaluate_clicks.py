"""How well a model does what it is told: objects of a data set by simulated clicks, or by a box around each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from masklet.data.objects import known_pixels, objects_in
from masklet.data.sources import Dataset
from masklet.inference.click import look, promptable
from masklet.inference.clicking import simulate
from masklet.inference.cutting import Cutter
from masklet.inference.image import Predictor, Settings
from masklet.inference.zoom import Looked, Zoom, zoom_of
from masklet.metrics.clicks import ClickScore
from masklet.models.prompting import Answers
from masklet.ops.clicks import SAM2, Click, ClickRule, next_click
from masklet.structures import Prompt, Sample
from masklet.structures.errors import UserError

__all__ = ["PROTOCOLS", "Outcome", "measure_prompts", "outcomes"]

PROTOCOLS = ("clicks", "box")
TOGETHER = 16  # objects of a picture that are clicked on in step

Mask = Bool[Tensor, "h w"]


@dataclass(frozen=True)
class Outcome:
    """What came of prompting for one object: true IoU after each click (or the box), and the IoU that was predicted.

    GrabCut predicts none. With fewer values than clicks nothing was wrong any more.
    """

    picture: str
    ious: tuple[float, ...]
    predicted: tuple[float, ...] = ()


def measure_prompts(
    model: Any,
    dataset: Dataset | Sequence[Sample],
    protocol: str = "clicks",
    *,
    clicks: int = 20,
    rule: ClickRule = SAM2,
    smallest: int = 1,
    limit: int | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> ClickScore:
    """Mean IoU over the objects of a data set: after each of up to `clicks` clicks, or for a true box (then iou@1).

    `model` is a promptable model, what `masklet.load` takes, or `Cutter()`, which is GrabCut. What is an object says
    `masklet.data.objects`; those with fewer than `smallest` pixels are left out. Pixels that nobody knows (ignored ones
    and the border of Pets) count neither for nor against a mask. `limit` is the most objects to try.
    `progress(done, total)` counts images.
    """
    score = ClickScore(clicks if protocol == "clicks" else 1)
    options: dict[str, Any] = {"clicks": clicks, "rule": rule, "smallest": smallest, "limit": limit, "device": device}
    for outcome in outcomes(model, dataset, protocol, progress=progress, **options):
        score.update(outcome.ious)
    if not score.objects:
        raise UserError("the data set has no objects", hint="evaluate on data with objects or label maps")
    return score


def outcomes(
    model: Any,
    dataset: Dataset | Sequence[Sample],
    protocol: str = "clicks",
    *,
    clicks: int = 20,
    rule: ClickRule = SAM2,
    smallest: int = 1,
    limit: int | None = None,
    of_each: int | None = None,
    zoom: Zoom | bool | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Outcome]:
    """What `measure_prompts` measures, object by object. Of each picture `of_each` objects, spread over all it has.

    A model looks at a picture once, and all its objects are clicked on in step. With `zoom` it looks closer at small
    ones (`masklet.inference.zoom`; None: as suits the model).
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"there is no protocol {protocol!r}", hint=f"choose from {', '.join(PROTOCOLS)}")
    if clicks < 1:
        raise UserError(f"clicks is {clicks}", hint="allow at least one")
    if not isinstance(model, Cutter):
        model = Predictor(model, Settings(device=device)).model
        promptable(model)
    count, closer = 0, None if isinstance(model, Cutter) else zoom_of(model, zoom)
    for done in range(len(dataset)):
        sample = dataset[done]
        masks = objects_in(sample)
        masks = masks[masks.areas() >= max(1, smallest)]
        if of_each is not None and len(masks) > of_each:
            masks = masks[[i * len(masks) // of_each for i in range(of_each)]]
        masks = masks[: None if limit is None else limit - count]
        known, embedding = known_pixels(sample), None
        for start in range(0, len(masks), TOGETHER):
            truths = list(masks[start : start + TOGETHER].dense())
            if isinstance(model, Cutter):
                yield from (_cut(model, sample, truth, known, protocol, clicks, rule) for truth in truths)
                continue
            embedding = look(model, sample.image) if embedding is None else embedding
            asked = Looked(model, sample.image, embedding, closer)
            if protocol == "box":
                yield from _boxed(asked, sample.name, truths, known)
            else:
                yield from _clicked(asked, sample.name, truths, known, clicks, rule)
        count += len(masks)
        if progress is not None:
            progress(done + 1, len(dataset))
        if limit is not None and count >= limit:
            break


def _clicked(
    asked: Looked, name: str, truths: Sequence[Mask], known: Mask | None, clicks: int, rule: ClickRule
) -> list[Outcome]:
    """As `simulate` does with a `Clicker`, for several objects at once: each click refines the last answer."""
    masks = [torch.zeros_like(truth) for truth in truths]
    made: list[list[Click]] = [[] for _ in truths]
    ious: list[list[float]] = [[] for _ in truths]
    predicted: list[list[float]] = [[] for _ in truths]
    last: list[Answers | None] = [None] * len(truths)
    left = list(range(len(truths)))
    for _ in range(clicks):
        for i in list(left):
            click = next_click(masks[i], truths[i], made[i], valid=known, rule=rule)
            if click is None:
                left.remove(i)
            else:
                made[i].append(click)
        if not left:
            break
        for i, found in zip(
            left, asked.answers([_prompt(made[i]) for i in left], [last[i] for i in left]), strict=True
        ):
            masks[i], last[i] = found.dense()[0].cpu(), found
            ious[i].append(_iou(masks[i], truths[i], known))
            predicted[i].append(float(found.score[0]))
    return [Outcome(name, tuple(true), tuple(said)) for true, said in zip(ious, predicted, strict=True)]


def _boxed(asked: Looked, name: str, truths: Sequence[Mask], known: Mask | None) -> Iterator[Outcome]:
    found = asked.answers([_box(truth) for truth in truths])
    for truth, one in zip(truths, found, strict=True):
        yield Outcome(name, (_iou(one.dense()[0].cpu(), truth, known),), (float(one.score[0]),))


def _cut(
    cutter: Cutter, sample: Sample, truth: Mask, known: Mask | None, protocol: str, clicks: int, rule: ClickRule
) -> Outcome:
    if protocol == "box":
        return Outcome(sample.name, (_iou(cutter(sample.image, _box(truth)), truth, known),))
    return Outcome(sample.name, simulate(cutter, sample.image, truth, clicks, rule=rule, valid=known).ious)


def _iou(mask: Mask, truth: Mask, known: Mask | None) -> float:
    either = mask | truth if known is None else (mask | truth) & known  # truth is known everywhere
    return float((mask & truth).sum() / either.sum())


def _box(truth: Mask) -> Prompt:
    """The smallest box around an object."""
    rows, columns = truth.any(1).nonzero()[:, 0], truth.any(0).nonzero()[:, 0]
    box = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
    return Prompt(boxes=torch.tensor([box]))


def _prompt(clicks: Sequence[Click]) -> Prompt:
    points = torch.tensor([[click.x, click.y] for click in clicks], dtype=torch.float32)
    return Prompt(points, torch.tensor([int(click.positive) for click in clicks]))
