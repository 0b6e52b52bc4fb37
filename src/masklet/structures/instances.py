"""The objects found in one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from masklet.structures.classes import Classes
from masklet.structures.errors import UserError
from masklet.structures.masks import Masks
from masklet.structures.selection import Keep, positions


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects in one image. Boxes are x0 y0 x1 y1 in pixels, ends exclusive; labels count from 0."""

    boxes: Float[Tensor, "n 4"]
    labels: Int64[Tensor, " n"]
    scores: Float[Tensor, " n"]
    masks: Masks | None
    size: tuple[int, int]
    classes: Classes

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4 or not self.boxes.is_floating_point():
            came = f"{self.boxes.dtype} of shape {tuple(self.boxes.shape)}"
            raise UserError(f"boxes are float (n, 4), these are {came}", hint="give x0 y0 x1 y1 for each object")
        if self.labels.dtype != torch.int64:
            raise UserError(f"labels are int64, these are {self.labels.dtype}", hint="convert them with .long()")
        parts = {"boxes": self.boxes, "labels": self.labels, "scores": self.scores, "masks": self.masks}
        counts = {name: len(part) for name, part in parts.items() if part is not None}
        if len(set(counts.values())) > 1:
            came = ", ".join(f"{n} {name}" for name, n in counts.items())
            raise UserError(f"every field of Instances needs one entry per object, but there are {came}")
        if not self.boxes.isfinite().all():
            raise UserError("a box has a coordinate that is not a number")
        if (reversed_ := (self.boxes[:, 2:] < self.boxes[:, :2]).any(1)).any():
            i = int(reversed_.nonzero()[0])
            message = f"box {i} ends before it begins: {self.boxes[i].tolist()}"
            raise UserError(message, hint="boxes are x0 y0 x1 y1, not x y width height")
        if self.masks is not None and self.masks.size != self.size:
            (h, w), (height, width) = self.masks.size, self.size
            message = f"masks are {h}x{w} but image is {height}x{width}"
            raise UserError(message, hint="resize the masks or use the original image")
        if self.labels.numel() and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            bad = next(i for i in self.labels.tolist() if not 0 <= i < len(self.classes))
            raise UserError(f"label {bad} does not exist", hint=f"classes are 0..{len(self.classes) - 1}")

    @classmethod
    def empty(cls, size: tuple[int, int], classes: Classes) -> Instances:
        """No objects in an image of `size`."""
        labels = torch.zeros(0, dtype=torch.int64)
        return cls(torch.zeros(0, 4), labels, torch.zeros(0), Masks(*size), size, classes)

    @classmethod
    def from_masks(
        cls, masks: Masks, labels: Int64[Tensor, " n"], classes: Classes, scores: Float[Tensor, " n"] | None = None
    ) -> Instances:
        """Objects whose boxes are those of their masks; scores are 1 where not given (ground truth)."""
        scores = torch.ones(len(masks)) if scores is None else scores
        return cls(masks.boxes(), labels, scores, masks, masks.size, classes)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: Keep) -> Instances:
        chosen = positions(keep, len(self))
        masks = None if self.masks is None else self.masks[chosen]
        fields = (self.boxes[chosen], self.labels[chosen], self.scores[chosen])
        return Instances(*fields, masks, self.size, self.classes)
