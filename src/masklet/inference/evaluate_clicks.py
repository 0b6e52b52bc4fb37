"""How well a model does what it is told: objects of a data set by simulated clicks, or by a box around each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from scipy import ndimage
from torch import Tensor

from masklet.data.sources import Dataset
from masklet.inference.click import Clicker, look, promptable
from masklet.inference.clicking import simulate
from masklet.inference.cutting import Cutter
from masklet.inference.image import Predictor, Settings
from masklet.metrics.clicks import ClickScore
from masklet.models.prompting import ask
from masklet.ops.clicks import SAM2, ClickRule
from masklet.structures import Prompt, Sample
from masklet.structures.errors import UserError

__all__ = ["PROTOCOLS", "measure_prompts", "objects_in"]

PROTOCOLS = ("clicks", "box")
REGION = 400  # pixels that a region of a label map has at least


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

    `model` is a promptable model, what `masklet.load` takes, or a function (image, prompt) -> mask such as `Cutter()`,
    which is GrabCut. Objects are those of the data, crowds left out, or where there are only label maps the connected
    regions of each class; those with fewer than `smallest` pixels (regions: 400) are left out. `limit` is the most
    objects to try. `progress(done, total)` counts images.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"there is no protocol {protocol!r}", hint=f"choose from {', '.join(PROTOCOLS)}")
    if isinstance(model, Cutter):
        answer: Any = model
    else:
        model = Predictor(model, Settings(device=device)).model
        promptable(model)
        answer = Clicker(model)
    score = ClickScore(clicks if protocol == "clicks" else 1)
    for done in range(len(dataset)):
        sample = dataset[done]
        truths = list(objects_in(sample, smallest))
        truths = truths if limit is None else truths[: limit - score.objects]
        if protocol == "clicks":
            for truth in truths:
                score.update(simulate(answer, sample.image, truth, clicks, rule=rule).ious)
        elif truths:
            for truth, mask in zip(truths, _by_boxes(answer, model, sample.image, truths), strict=True):
                score.update([float((mask & truth).sum() / (mask | truth).sum())])
        if progress is not None:
            progress(done + 1, len(dataset))
        if limit is not None and score.objects >= limit:
            break
    if not score.objects:
        raise UserError("the data set has no objects", hint="evaluate on data with objects or label maps")
    return score


def objects_in(sample: Sample, smallest: int = 1) -> Iterator[Bool[Tensor, "h w"]]:
    """The true masks of a sample, one by one."""
    found = sample.instances
    if found is not None and found.masks is not None:
        alone = found if found.crowd is None else found[~found.crowd]
        assert alone.masks is not None
        for i, area in enumerate(alone.masks.areas().tolist()):
            if area >= max(1, smallest):
                yield alone.masks[[i]].dense()[0]
    elif sample.semantic is not None:
        labels = sample.semantic.numpy()
        ignored = 255 if sample.classes is None else sample.classes.ignore
        for value in np.unique(labels):
            if value == ignored:
                continue
            parts, _ = ndimage.label(labels == value, np.ones((3, 3), bool))
            sizes = np.bincount(parts.ravel())
            for part in np.flatnonzero(sizes >= max(REGION, smallest)):
                if part:
                    yield torch.from_numpy(parts == part)


def _by_boxes(answer: Any, model: Any, image: Tensor, truths: Sequence[Bool[Tensor, "h w"]]) -> Iterator[Tensor]:
    """What is found in the true box of each object."""
    prompts = []
    for truth in truths:
        rows, columns = truth.any(1).nonzero()[:, 0], truth.any(0).nonzero()[:, 0]
        box = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
        prompts.append(Prompt(boxes=torch.tensor([box])))
    if isinstance(answer, Cutter):
        yield from (answer(image, prompt) for prompt in prompts)
        return
    embedding = look(model, image)
    for start in range(0, len(prompts), 8):
        yield from ask(model, embedding, prompts[start : start + 8]).dense().cpu()
