"""The objects found in one image."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from masklet.structures.classes import Classes
from masklet.structures.errors import UserError
from masklet.structures.masks import Masks
from masklet.structures.selection import Keep, positions


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects in one image. Boxes are x0 y0 x1 y1 in pixels, ends exclusive; labels count from 0.

    What only some tasks know is None elsewhere. Keypoints are (x, y, visible): 0 not labelled, 1 hidden, 2 seen; models
    give a score there. Rotated boxes are (cx, cy, w, h, degrees), turned counter-clockwise on the screen as in
    detectron2. `crowd` belongs to truth: a region that is no single object to learn (COCO's `iscrowd`, illegible text)
    and that scores leave out.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int64[Tensor, " n"]
    scores: Float[Tensor, " n"]
    masks: Masks | None
    size: tuple[int, int]
    classes: Classes
    crowd: Bool[Tensor, " n"] | None = None
    keypoints: Float[Tensor, "n k 3"] | None = None
    rotated: Float[Tensor, "n 5"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4 or not self.boxes.is_floating_point():
            came = f"{self.boxes.dtype} of shape {tuple(self.boxes.shape)}"
            raise UserError(f"boxes are float (n, 4), these are {came}", hint="give x0 y0 x1 y1 for each object")
        if self.labels.dtype != torch.int64:
            raise UserError(f"labels are int64, these are {self.labels.dtype}", hint="convert them with .long()")
        if self.crowd is not None and (self.crowd.dtype != torch.bool or self.crowd.ndim != 1):
            came = f"{self.crowd.dtype} of shape {tuple(self.crowd.shape)}"
            raise UserError(f"crowd is bool (n,), this is {came}", hint="give True or False for each object")
        for name, form, part in (("keypoints", "(n, k, 3)", self.keypoints), ("rotated boxes", "(n, 5)", self.rotated)):
            if part is None:
                continue
            wrong = part.ndim != form.count(",") + 1 or part.shape[-1] != int(form[-2])
            if wrong or not part.is_floating_point():
                hint = "give x y visible for each point" if name == "keypoints" else "give cx cy w h degrees"
                raise UserError(f"{name} are float {form}, these are {part.dtype} of shape {tuple(part.shape)}", hint)
            if not part.isfinite().all():
                raise UserError(f"the {name} have a number that is not finite")
        counts = {name: len(part) for name in _EACH if (part := getattr(self, name)) is not None}
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
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return Instances(**{n: p[chosen] if n in _EACH and p is not None else p for n, p in parts.items()})


_EACH = ("boxes", "labels", "scores", "masks", "crowd", "keypoints", "rotated")  # one entry per object
