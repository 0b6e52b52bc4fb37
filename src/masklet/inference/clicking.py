"""A simulated annotator: clicks on an object until its mask is good, the same way every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from masklet.ops.clicks import SAM2, Click, ClickRule, next_click
from masklet.structures import Prompt, UserError

__all__ = ["Clicked", "simulate"]


@dataclass(frozen=True, eq=False)
class Clicked:
    """What came of clicking on one object: IoU after each click, the clicks, and the last mask."""

    ious: tuple[float, ...]
    clicks: tuple[Click, ...]
    mask: Bool[Tensor, "h w"]


def simulate(
    predict: Callable[[Any, Prompt], Any],
    image: Any,
    truth: Bool[Tensor, "h w"] | Bool[np.ndarray, "h w"],
    clicks: int = 20,
    *,
    rule: ClickRule = SAM2,
    valid: Bool[Tensor, "h w"] | Bool[np.ndarray, "h w"] | None = None,
    stop_at: float | None = None,
) -> Clicked:
    """Clicks on one object up to `clicks` times and measures the mask after each.

    `predict(image, prompt)` gets all clicks so far as the prompt's points (x y of pixels, label 1 for the object)
    and gives a bool mask of the truth's size, (H, W) or (1, H, W). The first click is the centre of the object, each
    further one the centre of the largest mistake (`next_click`). It ends early when nothing is wrong any more or
    the IoU reaches `stop_at`; `ClickScore` reads such short lists. Pixels outside `valid` count nowhere.
    """
    true = torch.as_tensor(truth).cpu()
    if true.ndim != 2 or true.dtype != torch.bool:
        raise UserError(f"truth is {true.dtype} of shape {tuple(true.shape)}", hint="give one bool mask (H, W)")
    counted = torch.ones_like(true) if valid is None else torch.as_tensor(valid).cpu()
    if counted.shape != true.shape:
        raise UserError(f"valid is {_size(counted)} but the truth is {_size(true)}", hint="give one flag per pixel")
    true = true & counted
    if not true.any():
        raise UserError("the truth mask is empty", hint="leave out objects that are not there")
    if clicks < 1:
        raise UserError(f"clicks is {clicks}", hint="allow at least one")
    mask = torch.zeros_like(true)
    made: list[Click] = []
    ious: list[float] = []
    while len(made) < clicks:
        click = next_click(mask, true, made, valid=counted, rule=rule)
        if click is None:
            break
        made.append(click)
        points = torch.tensor([[c.x, c.y] for c in made], dtype=torch.float32)
        labels = torch.tensor([int(c.positive) for c in made])
        mask = _mask(predict(image, Prompt(points, labels)), true)
        both, either = (mask & true).sum().item(), ((mask | true) & counted).sum().item()
        ious.append(both / either)
        if stop_at is not None and ious[-1] >= stop_at:
            break
    return Clicked(tuple(ious), tuple(made), mask)


def _mask(found: Any, truth: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """What a predictor returned, as one mask of the truth's size."""
    if not isinstance(found, Tensor | np.ndarray):
        raise UserError(f"the predictor returned {type(found).__name__}", hint="it should return a bool mask (H, W)")
    mask = torch.as_tensor(found).detach().cpu()
    mask = mask[0] if mask.ndim == 3 and len(mask) == 1 else mask
    if mask.dtype != torch.bool:
        raise UserError(f"the predictor returned {mask.dtype}", hint="threshold its logits at 0: mask = logits > 0")
    if mask.shape != truth.shape:
        message = f"the predicted mask is {_size(mask)} but the truth is {_size(truth)}"
        raise UserError(message, hint="resize it to the image")
    return mask


def _size(mask: Tensor) -> str:
    return "x".join(map(str, mask.shape))
