"""Cutting out by colour alone: GrabCut from a box, clicks or strokes, and borders of masks drawn to the pixel.

No network and no weights: the baseline that promptable models are measured against, and a finish for their masks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Integer, UInt8
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from masklet.data.images import read_image, read_labels
from masklet.models.prompting import check
from masklet.ops import graphcut
from masklet.ops.graphcut import BACKGROUND, MAYBE_BACKGROUND, MAYBE_OBJECT, OBJECT, UNKNOWN, GrabCut
from masklet.structures import Prompt
from masklet.structures.errors import UserError

__all__ = ["Cutter", "cut_out", "read_scribble", "refine"]

STROKES = {1: OBJECT, 255: OBJECT, 2: BACKGROUND, 128: BACKGROUND}  # what a pixel of a scribble says; 0: nothing


@dataclass(frozen=True)
class Cutter:
    """GrabCut as what `simulate` clicks with; `cut_out` explains the rest.

    A window of at most `pixels` is cut (larger ones shrunk, and their border then drawn at full size); it reaches
    `margin` of the sides of a box or mask beyond it. A click is a disc of `radius` pixels.
    """

    settings: GrabCut = field(default_factory=GrabCut)
    pixels: int = 2**16
    margin: float = 0.25
    radius: float = 3.0

    def __call__(self, image: Any, prompt: Prompt) -> Bool[Tensor, "h w"]:
        return cut_out(image, prompt, cutter=self)


def cut_out(
    image: Any, prompt: Prompt | None, scribble: Integer[Tensor, "h w"] | None = None, cutter: Cutter | None = None
) -> Bool[Tensor, "h w"]:
    """The object that a prompt and strokes mean, by its colours (Rother et al., 2004).

    Outside the box is background; without a box or mask any pixel may be the object. `scribble` says of pixels that
    they are the object (1) or not (2), or nothing (0).
    """
    chosen = Cutter() if cutter is None else cutter
    pixels = read_image(image)
    size = (pixels.shape[1], pixels.shape[2])
    if prompt is not None:
        check(prompt, size)
    hints = _hints(size, prompt, scribble, chosen.radius)
    x0, y0, x1, y1 = _window(hints, chosen.margin)
    window, own = pixels[:, y0:y1, x0:x1], hints[y0:y1, x0:x1]
    found = np.zeros(size, bool)
    found[y0:y1, x0:x1] = _cut(window, own, chosen)
    return torch.from_numpy(found)


def refine(
    image: Any, mask: Bool[Tensor, "h w"], band: int = 6, settings: GrabCut | None = None
) -> Bool[Tensor, "h w"]:
    """The mask with its border where colours change, at most `band` pixels from where it was.

    Only the band is cut, with colours that are learned from both sides of it.
    """
    pixels = read_image(image)
    inside = mask.cpu().numpy()
    if inside.shape != tuple(pixels.shape[1:]):
        (h, w), (height, width) = inside.shape, pixels.shape[1:]
        raise UserError(f"the mask is {h}x{w} but the image is {height}x{width}", hint="resize it to the image")
    if band < 1:
        raise UserError(f"band is {band}", hint="give at least 1 pixel")
    if inside.all() or not inside.any():
        return mask.cpu().clone()
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    far = 2 * band
    y0, y1 = max(0, rows[0] - far), min(inside.shape[0], rows[-1] + 1 + far)
    x0, x1 = max(0, columns[0] - far), min(inside.shape[1], columns[-1] + 1 + far)
    part = inside[y0:y1, x0:x1]
    found = inside.copy()
    found[y0:y1, x0:x1] = _band(pixels[:, y0:y1, x0:x1], part, band, settings)
    return torch.from_numpy(found)


def read_scribble(path: str | Path, size: tuple[int, int]) -> Integer[Tensor, "h w"]:
    """Strokes on a picture of this size, from an 8-bit file: 1 or 255 is the object, 2 or 128 is not, 0 is silent."""
    values = read_labels(path)
    if tuple(values.shape) != size:
        (h, w), (height, width) = values.shape, size
        raise UserError(f"{path} is {h}x{w} but the image is {height}x{width}", hint="draw on a copy of the image")
    if wrong := sorted(set(values.unique().tolist()) - {0, *STROKES}):
        hint = "1 or 255 marks the object, 2 or 128 the background, 0 nothing"
        raise UserError(f"{path} has pixels of value {wrong[0]}", hint=hint)
    out = torch.zeros_like(values)
    for value, meaning in STROKES.items():
        out[values == value] = 1 if meaning == OBJECT else 2
    if not (out == 1).any():
        raise UserError(f"{path} marks no object", hint="draw on the object with the value 1 or 255")
    return out


def _hints(
    size: tuple[int, int], prompt: Prompt | None, scribble: Integer[Tensor, "h w"] | None, radius: float
) -> UInt8[np.ndarray, "h w"]:
    """What is known of every pixel."""
    hints = np.full(size, MAYBE_BACKGROUND, np.uint8)
    if prompt is not None and prompt.boxes is not None:
        x0, y0, x1, y1 = prompt.boxes[0].round().long().tolist()
        hints[:] = BACKGROUND
        hints[max(0, y0) : max(y1, y0 + 1, 1), max(0, x0) : max(x1, x0 + 1, 1)] = MAYBE_OBJECT
    if prompt is not None and prompt.masks is not None:
        hints[prompt.masks[0].numpy()] = MAYBE_OBJECT
    if prompt is not None and prompt.points is not None and prompt.point_labels is not None:
        y, x = np.ogrid[: size[0], : size[1]]
        for (px, py), label in zip(prompt.points.tolist(), prompt.point_labels.tolist(), strict=True):
            hints[(x - px) ** 2 + (y - py) ** 2 <= radius**2] = OBJECT if label else BACKGROUND
    if scribble is not None:
        strokes = scribble.numpy()
        hints[strokes == 1], hints[strokes == 2] = OBJECT, BACKGROUND
    if (hints == BACKGROUND).any() and not (hints == MAYBE_OBJECT).any():
        hints[hints == MAYBE_BACKGROUND] = UNKNOWN  # both sides were shown: what was not is neither
    if not np.isin(hints, (OBJECT, MAYBE_OBJECT)).any():
        raise UserError("nothing says what the object is", hint="give a box, a click on it or a stroke over it")
    return hints


def _window(hints: UInt8[np.ndarray, "h w"], margin: float) -> tuple[int, int, int, int]:
    """x0 y0 x1 y1 of what may be the object and of some background around it."""
    maybe = hints != BACKGROUND
    rows, columns = np.flatnonzero(maybe.any(1)), np.flatnonzero(maybe.any(0))
    high, wide = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    down, across = max(4, round(margin * high)), max(4, round(margin * wide))
    return (
        max(0, int(columns[0]) - across),
        max(0, int(rows[0]) - down),
        min(hints.shape[1], int(columns[-1]) + 1 + across),
        min(hints.shape[0], int(rows[-1]) + 1 + down),
    )


def _cut(window: UInt8[Tensor, "3 h w"], hints: UInt8[np.ndarray, "h w"], chosen: Cutter) -> Bool[np.ndarray, "h w"]:
    """GrabCut on a window, shrunk where it is large."""
    height, width = hints.shape
    factor = (chosen.pixels / (height * width)) ** 0.5
    if factor >= 1:
        return _grabcut(window, hints, chosen.settings)
    size = max(2, round(height * factor)), max(2, round(width * factor))
    small = F.interpolate(window[None], size, mode="bilinear", antialias=True)[0]
    y, x = (np.minimum((np.arange(n) + 0.5) * m / n, m - 1).astype(int) for n, m in zip(size, hints.shape, strict=True))
    coarse = hints[y[:, None], x]
    strokes = (BACKGROUND, OBJECT) if (hints == UNKNOWN).any() else (OBJECT,)
    for mark in strokes:  # thin ones survive
        rows, columns = np.nonzero(hints == mark)
        coarse[rows * size[0] // height, columns * size[1] // width] = mark
    found = torch.from_numpy(_grabcut(small, coarse, chosen.settings))
    grown = F.interpolate(found[None, None].float(), (height, width), mode="bilinear")[0, 0] > 0.5
    band = int(np.ceil(2 / factor))
    fine = _band(window, grown.numpy(), band, chosen.settings) if grown.any() and not grown.all() else grown.numpy()
    fine[hints == OBJECT], fine[hints == BACKGROUND] = True, False
    return fine


def _grabcut(
    window: UInt8[Tensor, "3 h w"], hints: UInt8[np.ndarray, "h w"], settings: GrabCut
) -> Bool[np.ndarray, "h w"]:
    inside = np.isin(hints, (OBJECT, MAYBE_OBJECT))
    if inside.all():
        return inside  # a box around the whole picture says nothing of the background
    return graphcut.grabcut(window.permute(1, 2, 0).numpy(), hints, settings)


def _band(
    window: UInt8[Tensor, "3 h w"], inside: Bool[np.ndarray, "h w"], band: int, settings: GrabCut | None
) -> Bool[np.ndarray, "h w"]:
    """One round of cutting within some pixels of a border."""
    away = np.where(inside, distance_transform_edt(inside), distance_transform_edt(~inside))
    hints = np.where(inside, OBJECT, BACKGROUND).astype(np.uint8)
    near = away <= band
    hints[near] = np.where(inside[near], MAYBE_OBJECT, MAYBE_BACKGROUND)
    chosen = GrabCut() if settings is None else settings
    once = GrabCut(chosen.gamma, chosen.components, 1)
    return graphcut.grabcut(window.permute(1, 2, 0).numpy(), hints, once)
