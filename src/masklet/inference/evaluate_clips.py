"""How well a model follows: clicks on the first frame, and the true mask of the first frame through the clip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from masklet.data.images import to_float
from masklet.inference.click import Clicker
from masklet.inference.clicking import simulate
from masklet.metrics.clicks import ClickScore
from masklet.metrics.vos import JF
from masklet.models.base import evaluating
from masklet.models.prompting import enlarged
from masklet.structures import Clip, Masks

__all__ = ["measure_clips"]

CLICKS = 3


def measure_clips(model: Any, clips: Iterable[Clip], clicks: int = CLICKS) -> dict[str, float]:
    """`iou@1` to `iou@<clicks>` on first frames, and j, f, jf of the frames after them, given the first frame's masks.

    Clicks fall into the middle of the largest mistake (`masklet.ops.clicks`); J and F leave the first and the last
    frame of a clip out, as DAVIS does. Clips without objects do not count, and models that do not follow have no J.
    """
    clicked, scores, device = ClickScore(clicks), JF(), next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        for number, clip in enumerate(clips):
            if not len(clip.masks):
                continue
            clicker = Clicker(model)
            for truth in clip.masks[:, 0]:
                if truth.any():
                    clicked.update(simulate(clicker, clip.frames[0], truth, clicks).ious)
            if not hasattr(model, "step"):
                continue
            seen = [model.embed(to_float(frame)[None].to(device)) for frame in clip.frames]
            _, memory = model.step(seen[0], model.nothing_remembered(), None, clip.masks[:, 0].to(device), at=0)
            name = f"{number:05d}"
            first = Masks.from_dense(clip.masks[:, 0])
            scores.update(first, first, name)
            for at in range(1, len(clip)):
                found, memory = model.step(seen[at], memory, at=at)
                masks = enlarged(found.logits[:, None].float(), seen[at])[:, 0] > 0
                scores.update(Masks.from_dense(masks.cpu()), Masks.from_dense(clip.masks[:, at]), name)
    found_ious = {key: value for key, value in clicked.compute().items() if key.startswith("iou@")}
    found_scores = scores.compute() if scores.sequences else {}
    return {**found_ious, **{key: found_scores[key] for key in ("j", "f", "jf") if key in found_scores}}
