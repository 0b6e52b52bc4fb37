"""Looking closer: an object that is small in the picture is answered again from a window around it.

A promptable model sees every picture at one size; an object of 20 pixels in a photograph of 1,000 is a few cells of its
map. Where the first answer says that the object is small, the model looks at a window of the picture around it and
answers there (as Sofiiuk et al., 2020, f-BRS, and later interactive methods zoom in). That costs another embedding for
the object, once as long as the window fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from masklet.data.images import to_float
from masklet.models.base import evaluating
from masklet.models.prompting import Answers, Embedding, ask, enlarged, on_grid
from masklet.structures import Prompt

__all__ = ["Looked", "Zoom", "answer", "zoom_of"]

FULL = 1024  # pixels a side that the published models see
LIMIT = 32.0  # of logits that are fed back
Window = tuple[int, int, int, int]  # x0 y0 x1 y1 in pixels of the picture, the last ones outside


@dataclass(frozen=True)
class Zoom:
    """When to look closer, and how close.

    A window is `around` times as large as the object and its clicks and at least `least` pixels wide and high. It is
    worth looking at where its sides are at most `worth` of what was seen so far (the geometric mean of both).
    """

    around: float = 1.7
    least: int = 96
    worth: float = 0.7

    def window(self, answers: Answers, prompt: Prompt) -> Window | None:
        """Where to look instead; None where the answer may stay. One object."""
        embedding = answers.embedding
        height, width = embedding.picture
        box = _extent(answers, prompt)
        if box is None:
            return None
        x0, y0, x1, y1 = box
        # both sides get the longer one's share, so that a thin object does not become a square of noise
        w = max(self.around * (x1 - x0), 0.5 * self.around * (y1 - y0), float(self.least))
        h = max(self.around * (y1 - y0), 0.5 * self.around * (x1 - x0), float(self.least))
        x, w = _within((x0 + x1) / 2, w, width)
        y, h = _within((y0 + y1) / 2, h, height)
        seen = embedding.size
        if (w * h / (seen[0] * seen[1])) ** 0.5 > self.worth and _holds(embedding, box):
            return None
        return x, y, x + w, y + h


def zoom_of(model: Any, zoom: Zoom | bool | None = None) -> Zoom | None:
    """The zoom to use: True or one of your own, False for none; None leaves it to the model.

    Those that see less than 1,024 pixels a side look closer, the others answer as their authors' code does.
    """
    if isinstance(zoom, Zoom):
        return zoom
    wanted = getattr(model, "side", FULL) < FULL if zoom is None else zoom
    return Zoom() if wanted else None


def answer(
    model: Any,
    image: UInt8[Tensor, "3 h w"] | Float[Tensor, "3 h w"],
    whole: Embedding,
    prompt: Prompt,
    last: Answers | None = None,
    zoom: Zoom | None = None,
) -> Answers:
    """The answer to all that was said of one object, starting from the `last` one, and looking closer with `zoom`.

    `whole` is the embedding of the `image`. What a first click or box means may be seen better from afar: of the first
    two answers the one with the higher predicted IoU is taken. Later ones are always answered from the window.
    """
    embedding, previous = whole, None
    if last is not None:
        embedding, previous = last.embedding, last.best
        if embedding.whole is not None and not _shows(embedding, prompt):
            embedding, previous = whole, recast(last, whole)
    answers = ask(model, embedding, prompt, previous)
    window = None if zoom is None else zoom.window(answers, prompt)
    if window is None:
        return answers
    closer = looked_at(model, image, window)
    if last is not None:
        return ask(model, closer, prompt, recast(answers, closer))
    found = ask(model, closer, prompt)
    return found if float(found.score[0]) > float(answers.score[0]) else answers


@dataclass(frozen=True, eq=False)
class Looked:
    """A picture that a model has looked at, for questions about several of its objects."""

    model: Any
    image: Tensor
    embedding: Embedding
    zoom: Zoom | None

    def answers(self, prompts: Sequence[Prompt], last: Sequence[Answers | None] | None = None) -> list[Answers]:
        """To each prompt, starting from the last answer. All at once, unless each has a window of its own."""
        last = [None] * len(prompts) if last is None else last
        if self.zoom is not None:
            each = zip(prompts, last, strict=True)
            return [answer(self.model, self.image, self.embedding, said, one, zoom=self.zoom) for said, one in each]
        known = [one.best for one in last if one is not None]
        found = ask(self.model, self.embedding, prompts, torch.cat(known) if known else None)
        return [found[i : i + 1] for i in range(len(prompts))]


def looked_at(model: Any, image: UInt8[Tensor, "3 h w"] | Float[Tensor, "3 h w"], window: Window) -> Embedding:
    """The embedding of a window of a picture."""
    x0, y0, x1, y1 = window
    with evaluating(model), torch.inference_mode():
        pixels = to_float(image[:, y0:y1, x0:x1])[None].to(next(model.parameters()).device)
        return replace(model.embed(pixels), corner=(x0, y0), whole=(image.shape[1], image.shape[2]))


def recast(answers: Answers, embedding: Embedding) -> Float[Tensor, "n h4 w4"]:
    """The coarse logits of the masks that were chosen, as another embedding's grid shows them."""
    large = enlarged(answers.best[:, None], answers.embedding)[:, 0]
    return on_grid(large.clamp(-LIMIT, LIMIT), embedding)[:, 0]


def _extent(answers: Answers, prompt: Prompt) -> tuple[float, float, float, float] | None:
    """The box of what was found, of the clicks on it, and of the prompt's own box; None where there is nothing."""
    height, width = answers.embedding.picture
    parts: list[Tensor] = []
    mask = answers.dense()[0]
    if mask.any():
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        parts.append(torch.tensor([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]).float())
    if prompt.points is not None:
        parts.append(prompt.points.float().cpu())
    if prompt.boxes is not None:
        parts.append(prompt.boxes[0].view(2, 2).float().cpu())
    if not parts or not (mask.any() or prompt.boxes is not None):
        return None
    corners = torch.cat(parts)
    (x0, y0), (x1, y1) = corners.amin(0).tolist(), corners.amax(0).tolist()
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))


def _within(middle: float, side: float, full: int) -> tuple[int, int]:
    """First pixel and length of a side that stays in the picture."""
    length = min(round(side), full)
    return min(max(round(middle - length / 2), 0), full - length), length


def _shows(embedding: Embedding, prompt: Prompt) -> bool:
    """Whether all points of a prompt lie in the window of an embedding."""
    if prompt.points is None:
        return True
    (x, y), (h, w) = embedding.corner, embedding.size
    px, py = prompt.points.float().cpu().unbind(1)
    return bool(((px >= x) & (px <= x + w) & (py >= y) & (py <= y + h)).all())


def _holds(embedding: Embedding, box: tuple[float, float, float, float]) -> bool:
    """Whether the window of an embedding shows a box with some room around it, or all that there is."""
    if embedding.whole is None:
        return True
    ((height, width), (x, y), (h, w)) = embedding.whole, embedding.corner, embedding.size
    room = 0.05
    return (
        (x == 0 or box[0] >= x + room * w)
        and (y == 0 or box[1] >= y + room * h)
        and (x + w == width or box[2] <= x + (1 - room) * w)
        and (y + h == height or box[3] <= y + (1 - room) * h)
    )
