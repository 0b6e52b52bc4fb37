"""A model together with what it is asked, as one of pictures: prompts from a command line, or all objects there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Integer
from torch import Tensor, nn

from masklet.data.images import as_batch, read_labels
from masklet.inference.click import look, one_picture, promptable
from masklet.inference.cutting import Cutter, cut_out, read_scribble, refine
from masklet.inference.everything import Everything, everything
from masklet.inference.zoom import Looked, Zoom, zoom_of
from masklet.models.prompting import check
from masklet.structures import Classes, Instances, Masks, Prompt
from masklet.structures.errors import UserError

__all__ = ["GRABCUT", "Asked", "Thing", "spread"]

GRABCUT = "grabcut"  # the name of what needs no weights
FEW = 5  # clicks that stand for a stroke


@dataclass
class Thing:
    """What was said of one object: clicks with their labels, a box, and files with a rough mask and with strokes."""

    name: str = ""
    points: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: tuple[float, float, float, float] | None = None
    mask: Path | None = None
    scribble: Path | None = None

    def prompt(self, size: tuple[int, int], strokes: Integer[Tensor, "h w"] | None = None) -> Prompt | None:
        """As a prompt on a picture of this size; `strokes` become clicks along them. None where nothing is left."""
        points, labels = list(self.points), list(self.labels)
        if strokes is not None:
            for value, label in ((1, 1), (2, 0)):
                for x, y in spread(strokes == value, FEW):
                    points.append((x, y))
                    labels.append(label)
        where = torch.tensor(points, dtype=torch.float32) if points else None
        boxes = None if self.box is None else torch.tensor([self.box])
        masks = None if self.mask is None else _mask(self.mask, size)[None]
        if where is None and boxes is None and masks is None:
            return None
        return Prompt(where, torch.tensor(labels) if points else None, boxes, masks)


class Asked(nn.Module):
    """`predict` of a picture gives the things that were said, one object each, or without any all objects there are.

    `model` is a promptable model, or None for GrabCut. `sharpen` draws the borders of masks anew where colours change.
    With `zoom` a model looks closer at what is small (None: as suits the model).
    """

    def __init__(
        self,
        model: Any,
        things: Sequence[Thing] = (),
        settings: Everything | None = None,
        sharpen: bool = False,
        name: str = "",
        zoom: Zoom | bool | None = None,
    ) -> None:
        super().__init__()
        if model is None:
            if not things:
                raise UserError("grabcut finds nothing by itself", hint="give --box, --point or --scribble")
        else:
            promptable(model)
        self.model, self.things, self.settings, self.sharpen = model, tuple(things), settings, sharpen
        self.zoom = None if model is None else zoom_of(model, zoom)
        known = Classes(("object",)) if model is None else model.classes
        named = tuple(dict.fromkeys(thing.name or known.names[0] for thing in things))
        self.classes = Classes(named) if named else known
        self.spec = {"model": name or (GRABCUT if model is None else model.spec["model"])}

    def predict(self, image: Any) -> Instances:
        """The objects of one picture."""
        found = self._told(image) if self.things else self._all(image)
        return self._sharpened(image, found) if self.sharpen else found

    def _all(self, image: Any) -> Instances:
        found = everything(self.model, image, self.settings)
        assert not isinstance(found, list)
        return found.instances

    def _told(self, image: Any) -> Instances:
        size = (image.shape[-2], image.shape[-1])
        strokes = [None if t.scribble is None else read_scribble(t.scribble, size) for t in self.things]
        names = [thing.name or self.classes.names[0] for thing in self.things]
        labels = torch.tensor([self.classes.names.index(name) for name in names])
        if self.model is None:
            said = [thing.prompt(size) for thing in self.things]
            cut = [cut_out(_bytes(image), p, s, Cutter()) for p, s in zip(said, strokes, strict=True)]
            return Instances.from_masks(Masks.from_dense(torch.stack(cut)), labels, self.classes)
        asked = [thing.prompt(size, s) for thing, s in zip(self.things, strokes, strict=True)]
        prompts = [prompt for prompt in asked if prompt is not None]
        for prompt in prompts:
            check(prompt, size)  # before the picture is looked at, which takes a while
        picture = one_picture(image)
        seen = Looked(self.model, picture, look(self.model, picture), self.zoom)
        masks, scores = list[Any](), list[Tensor]()
        for answers in seen.answers(prompts):
            own = answers.instances(self.model.classes)
            assert own.masks is not None
            masks, scores = [*masks, *own.masks.items], [*scores, own.scores]
        return Instances.from_masks(Masks(*size, tuple(masks)), labels, self.classes, torch.cat(scores))

    def _sharpened(self, image: Any, found: Instances) -> Instances:
        if found.masks is None or not len(found):
            return found
        pixels = _bytes(image)
        items = [Masks.from_dense(refine(pixels, mask)[None]).items[0] for mask in found.masks.dense()]
        return Instances.from_masks(Masks(*found.size, tuple(items)), found.labels, found.classes, found.scores)


def spread(mask: Bool[Tensor, "h w"], count: int) -> list[tuple[float, float]]:
    """Up to `count` pixels x y of a mask, far from each other: each is the one that is farthest from all before it."""
    where = np.argwhere(mask.numpy())
    if not len(where):
        return []
    middle = where.mean(0)
    chosen = [int(((where - middle) ** 2).sum(1).argmin())]
    away = np.full(len(where), np.inf)
    while len(chosen) < min(count, len(where)):
        away = np.minimum(away, ((where - where[chosen[-1]]) ** 2).sum(1))
        if away.max() == 0:
            break
        chosen.append(int(away.argmax()))
    return [(float(where[i, 1]), float(where[i, 0])) for i in chosen]


def _mask(path: Path, size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    values = read_labels(path)
    if tuple(values.shape) != size:
        (h, w), (height, width) = values.shape, size
        raise UserError(f"{path} is {h}x{w} but the image is {height}x{width}", hint="resize it to the image")
    if not values.any():
        raise UserError(f"{path} is empty", hint="pixels of the object are not 0")
    return values != 0


def _bytes(image: Any) -> Tensor:
    return as_batch(image)[0].mul(255).round().byte() if image.is_floating_point() else image
