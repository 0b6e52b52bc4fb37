"""How well a model follows: clicks on the first frame, and the true mask of the first frame through the clip."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from masklet.data.images import to_float
from masklet.metrics.vos import JF
from masklet.models.base import evaluating
from masklet.models.prompting import Queries, enlarged
from masklet.ops.clicks import next_click
from masklet.structures import Clip, Masks

__all__ = ["measure_clips"]

CLICKS, LIMIT = 3, 32.0


def measure_clips(model: Any, clips: Iterable[Clip], clicks: int = CLICKS) -> dict[str, float]:
    """`iou@1` to `iou@<clicks>` on first frames, and j, f, jf of the frames after them, given the first frame's masks.

    Clicks fall into the middle of the largest mistake (`masklet.ops.clicks`); J and F leave the first and the last
    frame of a clip out, as DAVIS does. Clips without objects do not count.
    """
    sums, count, scores = [0.0] * clicks, 0, JF()
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        for number, clip in enumerate(clips):
            if not len(clip.masks):
                continue
            seen = [model.embed(to_float(frame)[None].to(device)) for frame in clip.frames]
            for truth in clip.masks[:, 0]:
                count += 1
                for i, iou in enumerate(_clicked(model, seen[0], truth, clicks)):
                    sums[i] += iou
            _, memory = model.step(seen[0], model.nothing_remembered(), None, clip.masks[:, 0].to(device), at=0)
            name = f"{number:05d}"
            scores.update(_as_masks(clip.masks[:, 0]), _as_masks(clip.masks[:, 0]), name)
            for at in range(1, len(clip)):
                found, memory = model.step(seen[at], memory, at=at)
                masks = enlarged(found.logits[:, None].float(), seen[at])[:, 0] > 0
                scores.update(_as_masks(masks.cpu()), _as_masks(clip.masks[:, at]), name)
    found_scores = scores.compute()
    ious = {f"iou@{i + 1}": total / max(count, 1) for i, total in enumerate(sums)}
    return {**ious, **{key: found_scores[key] for key in ("j", "f", "jf")}}


def _clicked(model: Any, seen: Any, truth: Bool[Tensor, "h w"], clicks: int) -> list[float]:
    """IoU after each click."""
    mask, queries, ious = torch.zeros_like(truth), Queries.nothing(1, seen.features.device), list[float]()
    for _ in range(clicks):
        click = next_click(mask, truth)
        if click is not None:
            place = queries.points.new_tensor([[[click.x, click.y]]]) * queries.points.new_tensor(seen.scale)
            label = queries.labels.new_tensor([[int(click.positive)]])
            queries = replace(
                queries, points=torch.cat([queries.points, place], 1), labels=torch.cat([queries.labels, label], 1)
            )
            found, _ = model.step(seen, model.nothing_remembered(), queries, at=0, write=False)
            mask = (enlarged(found.logits[:, None].float(), seen)[0, 0] > 0).cpu()
            queries = replace(queries, masks=found.logits.clamp(-LIMIT, LIMIT)[:, None])
        ious.append(float((mask & truth).sum() / (mask | truth).sum().clamp(min=1)))
    return ious


def _as_masks(masks: Bool[Tensor, "k h w"]) -> Masks:
    return Masks.from_dense(masks)
