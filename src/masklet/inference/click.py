"""Pointing at objects in a photograph: it is looked at once, every click after that is answered in milliseconds.

session = ClickSession(model, "photo.jpg")
session.click(320, 240)                  # an object; the best of what one click may mean
session.click(300, 400, positive=False)  # not this part
session.undo()
session.box(10, 20, 200, 180, thing="car")
session.instances()
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from masklet.data.images import as_batch
from masklet.inference.clicking import Clicked, simulate
from masklet.inference.image import Predictor, Settings
from masklet.inference.zoom import Zoom, answer, zoom_of
from masklet.models import MODELS
from masklet.models.base import evaluating
from masklet.models.prompting import Answers, Embedding
from masklet.ops.clicks import SAM2, ClickRule
from masklet.structures import Classes, Instances, Masks, Prompt
from masklet.structures.errors import UserError

__all__ = ["ClickSession", "Clicker", "click_on", "look", "promptable"]


@dataclass(frozen=True, eq=False)
class Step:
    """What was said of an object so far and what the model answered."""

    prompt: Prompt
    answers: Answers


class ClickSession:
    """Objects in one photograph, each with its prompts and their answers; every step can be undone.

    `model` is a promptable model or what `masklet.load` takes. `refine` starts from the last answer where there is
    one, as the models were trained. Things are called by any name; without one it is 1. With `zoom` things that are
    small in the photograph are answered from a window around them (`masklet.inference.zoom`; None: as suits the model).
    """

    def __init__(
        self,
        model: Any,
        image: Any,
        *,
        device: str = "auto",
        refine: bool = True,
        zoom: Zoom | bool | None = None,
    ) -> None:
        self.model = Predictor(model, Settings(device=device)).model
        promptable(self.model)
        self.image = one_picture(image)
        self.embedding, self.refine = look(self.model, self.image), refine
        self.zoom = zoom_of(self.model, zoom)
        self.steps: dict[Any, tuple[Step, ...]] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the photograph."""
        return self.embedding.size

    def click(self, x: int | float, y: int | float, positive: bool = True, thing: Any = 1) -> Bool[Tensor, "h w"]:
        """One click more: this belongs to the thing, or (not `positive`) it does not. Gives the mask."""
        said = self._said(thing)
        points, labels = torch.tensor([[float(x), float(y)]]), torch.tensor([int(positive)])
        if said is None:
            return self._answer(thing, Prompt(points, labels))
        if said.points is not None and said.point_labels is not None:
            points, labels = torch.cat([said.points, points]), torch.cat([said.point_labels, labels])
        return self._answer(thing, replace(said, points=points, point_labels=labels))

    def box(
        self, x0: int | float, y0: int | float, x1: int | float, y1: int | float, thing: Any = 1
    ) -> Bool[Tensor, "h w"]:
        """A box around the thing, in place of an earlier one."""
        said, boxes = self._said(thing), torch.tensor([[float(x0), float(y0), float(x1), float(y1)]])
        return self._answer(thing, Prompt(boxes=boxes) if said is None else replace(said, boxes=boxes))

    def draw(self, mask: Bool[Tensor, "h w"], thing: Any = 1) -> Bool[Tensor, "h w"]:
        """A rough mask of the thing, in place of an earlier one and of the last answer."""
        said = self._said(thing)
        prompt = Prompt(masks=mask[None]) if said is None else replace(said, masks=mask[None])
        return self._answer(thing, prompt, afresh=True)

    def undo(self, thing: Any = 1) -> Bool[Tensor, "h w"] | None:
        """Takes back the last step; gives the mask before it, None where nothing is left."""
        steps = self._steps(thing)[:-1]
        if not steps:
            del self.steps[thing]
            return None
        self.steps[thing] = steps
        return self.mask(thing)

    def clear(self, thing: Any = 1) -> None:
        """Forgets a thing."""
        self._steps(thing)
        del self.steps[thing]

    def mask(self, thing: Any = 1) -> Bool[Tensor, "h w"]:
        """The mask of a thing, as pixels of the photograph."""
        return self._steps(thing)[-1].answers.dense()[0]

    def score(self, thing: Any = 1) -> float:
        """The IoU that the model predicts for its mask."""
        return float(self._steps(thing)[-1].answers.score[0])

    def meanings(self, thing: Any = 1) -> tuple[Bool[Tensor, "k h w"], Float[Tensor, " k"]]:
        """All that may be meant (whole, part, part of a part), best first, and the predicted IoUs."""
        return self._steps(thing)[-1].answers.meanings(0)

    def choose(self, meaning: int, thing: Any = 1) -> Bool[Tensor, "h w"]:
        """Takes another of the `meanings` as the mask; what follows refines it."""
        *before, last = self._steps(thing)
        order = last.answers.scores[0, 1:].argsort(descending=True) + 1
        if not 0 <= meaning < len(order):
            raise UserError(f"there is no meaning {meaning}", hint=f"give 0 to {len(order) - 1}, best first")
        chosen = replace(last.answers, chosen=order[meaning : meaning + 1])
        self.steps[thing] = (*before, replace(last, answers=chosen))
        return self.mask(thing)

    def instances(self) -> Instances:
        """All things as objects; the predicted IoU is the score, names that are texts are the classes."""
        things = list(self.steps)
        if not things:
            return Instances.empty(self.size, self.model.classes)
        named = [thing if isinstance(thing, str) else self.model.classes.names[0] for thing in things]
        classes = Classes(tuple(dict.fromkeys(named)))
        found = [self.steps[thing][-1].answers.instances(self.model.classes) for thing in things]
        masks = Masks(*self.size, tuple(one.masks.items[0] for one in found if one.masks is not None))
        labels = torch.tensor([classes.names.index(name) for name in named])
        return Instances.from_masks(masks, labels, classes, torch.cat([one.scores for one in found]))

    def _said(self, thing: Any) -> Prompt | None:
        return self.steps[thing][-1].prompt if thing in self.steps else None

    def _steps(self, thing: Any) -> tuple[Step, ...]:
        if thing not in self.steps:
            known = ", ".join(map(repr, self.steps)) or "none"
            raise UserError(f"there is no thing {thing!r}", hint=f"click on it first; known: {known}")
        return self.steps[thing]

    def _answer(self, thing: Any, prompt: Prompt, afresh: bool = False) -> Bool[Tensor, "h w"]:
        steps = self.steps.get(thing, ())
        last = steps[-1].answers if steps and self.refine and not afresh else None
        answers = answer(self.model, self.image, self.embedding, prompt, last, self.zoom)
        self.steps[thing] = (*steps, Step(prompt, answers))
        return self.mask(thing)


class Clicker:
    """A promptable model as what `simulate` clicks with: it looks at an image once and refines its last answer."""

    def __init__(self, model: Any, refine: bool = True, zoom: Zoom | bool | None = None) -> None:
        self.model, self.refine, self.zoom = model, refine, zoom_of(model, zoom)
        self._image: Any = None
        self._pixels: Tensor | None = None
        self._embedding: Embedding | None = None
        self._last: tuple[int, Answers] | None = None

    def __call__(self, image: Any, prompt: Prompt) -> Bool[Tensor, "h w"]:
        if self._embedding is None or self._pixels is None or image is not self._image:
            self._image, self._pixels, self._last = image, one_picture(image), None
            self._embedding = look(self.model, self._pixels)
        count = 0 if prompt.points is None else len(prompt.points)
        last = None
        if self.refine and self._last is not None and count == self._last[0] + 1 and count > 1:
            last = self._last[1]
        answers = answer(self.model, self._pixels, self._embedding, prompt, last, self.zoom)
        self._last = (count, answers)
        return answers.dense()[0].cpu()


def promptable(model: Any) -> None:
    """Refuses a model that takes no prompts."""
    if not hasattr(model, "embed") or not hasattr(model, "answer"):
        name = getattr(model, "spec", {}).get("model", type(model).__name__)
        able = ", ".join(sorted(known for known, system in MODELS.items() if "promptable" in system.tasks))
        raise UserError(f"{name} takes no prompts", hint=f"models that do: {able}")


def one_picture(image: Any) -> Float[Tensor, "3 h w"]:
    """One photograph (a path, PIL image, HWC array or CHW tensor) in 0..1."""
    pixels = as_batch(image)
    if len(pixels) != 1:
        raise UserError(f"{len(pixels)} images", hint="give one photograph at a time")
    return pixels[0]


def look(model: Any, image: Any) -> Embedding:
    """The embedding of one photograph: a path, PIL image, HWC array or CHW tensor."""
    with evaluating(model), torch.inference_mode():
        return model.embed(one_picture(image)[None].to(next(model.parameters()).device))


def click_on(
    model: Any,
    image: Any,
    truth: Bool[Tensor, "h w"],
    clicks: int = 20,
    *,
    rule: ClickRule = SAM2,
    valid: Bool[Tensor, "h w"] | None = None,
    stop_at: float | None = None,
) -> Clicked:
    """What a careful annotator would reach with a promptable model (`masklet.inference.clicking.simulate`)."""
    return simulate(Clicker(model), image, truth, clicks, rule=rule, valid=valid, stop_at=stop_at)
