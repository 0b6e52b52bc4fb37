"""Several looks at one picture, mirrored and at other scales: the mean of their probabilities decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from masklet.models.base import covered, narrow
from masklet.ops.resize import argmax_resized, resized_rows, rows_needed
from masklet.structures.errors import UserError

STRIPE = 2**22  # floats per view that are alive at once where several looks meet: 16 MB
NEVER = -1e30  # the score of a class that may not be chosen; not infinite, for interpolation would make it NaN


@dataclass(frozen=True)
class View:
    """How a picture is changed before a model sees it."""

    scale: float = 1.0
    flip: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The size of the picture as the model sees it."""
        return max(1, round(height * self.scale)), max(1, round(width * self.scale))

    def of(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hv wv"]:
        """The picture as the model sees it; shrinking averages, so that nothing flickers."""
        size = self.size(*images.shape[-2:])
        if size != tuple(images.shape[-2:]):
            images = F.interpolate(images, size=size, mode="bilinear", antialias=self.scale < 1)
        return images.flip(-1) if self.flip else images


def views(scales: Sequence[float] = (1.0,), flip: bool = False) -> tuple[View, ...]:
    """Every scale, and each of them mirrored as well where `flip` is set."""
    if not scales or not all(0 < s <= 8 for s in scales):
        raise UserError(f"scales are {list(scales)}", hint="give numbers from above 0 to 8, such as 0.75,1,1.25")
    return tuple(View(float(s), f) for s in dict.fromkeys(scales) for f in ((False, True) if flip else (False,)))


@dataclass(frozen=True)
class Looks:
    """What a model said about a batch of pictures of one size, view by view, at the model's own resolution."""

    model: Any
    views: tuple[View, ...]
    scores: tuple[Float[Tensor, "b k _ _"], ...]
    size: tuple[int, int]  # of the pictures

    def labels(self) -> Integer[Tensor, "b h w"]:
        """The most probable class of every pixel; with one view no probability is ever computed."""
        (height, width), classes = self.size, self.scores[0].shape[1]
        if self.views == (View(),):
            full = covered(self.model, height, width)
            found = argmax_resized(self.scores[0], full, align_corners=self.model.align_corners)
            return found[..., :height, :width].contiguous()
        stripe = max(1, STRIPE // (classes * width * len(self.scores[0])))
        rows = (self.chances(y, min(y + stripe, height)).argmax(1) for y in range(0, height, stripe))
        return torch.cat([narrow(row, classes) for row in rows], 1)

    def chances(self, start: int = 0, stop: int | None = None) -> Float[Tensor, "b k rows w"]:
        """Mean probabilities of the rows `start` to `stop` of the pictures."""
        stop = self.size[0] if stop is None else stop
        total = sum(self._seen(v, s, start, stop).softmax(1) for v, s in zip(self.views, self.scores, strict=True))
        assert isinstance(total, Tensor)
        return total / len(self.views)

    def _seen(self, view: View, scores: Tensor, start: int, stop: int) -> Float[Tensor, "b k rows w"]:
        """Rows of one view's scores in the coordinates of the picture: the model's resize, then that of the view."""
        height, width = view.size(*self.size)
        same = (height, width) == self.size
        first, end = (start, stop) if same else rows_needed(height, self.size[0], start, stop)
        full = covered(self.model, height, width)
        rows = resized_rows(scores, full, first, end, self.model.align_corners)[..., :width]
        if not same:
            rows = resized_rows(rows, self.size, start, stop, above=first, height=height)
        return rows.flip(-1) if view.flip else rows


def look(model: Any, images: Float[Tensor, "b c h w"], seen: tuple[View, ...], barred: Sequence[int] = ()) -> Looks:
    """What the model says about the pictures, view by view. `barred` classes get no chance anywhere."""
    scores = tuple(model.scores(view.of(images)).float() for view in seen)
    if barred:
        kept = scores[0].new_ones(scores[0].shape[1], 1, 1, dtype=torch.bool)
        kept[list(barred)] = False
        scores = tuple(one.where(kept, NEVER) for one in scores)
    return Looks(model, seen, scores, (images.shape[-2], images.shape[-1]))
