"""What a person points at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from masklet.structures.errors import UserError


@dataclass(frozen=True, eq=False)
class Prompt:
    """Points (label 1 means "this", 0 "not this"), boxes and rough masks that say which object is meant, in pixels."""

    points: Float[Tensor, "p 2"] | None = None
    point_labels: Int64[Tensor, " p"] | None = None  # all 1 where not given
    boxes: Float[Tensor, "b 4"] | None = None
    masks: Bool[Tensor, "m h w"] | None = None

    def __post_init__(self) -> None:
        if self.points is None and self.boxes is None and self.masks is None:
            raise UserError("the prompt is empty", hint="give points, boxes or masks")
        if self.points is None and self.point_labels is not None:
            raise UserError(f"{len(self.point_labels)} point labels but no points", hint="give the points as well")
        if self.points is not None:
            if self.points.ndim != 2 or self.points.shape[1] != 2 or not self.points.is_floating_point():
                came = f"{self.points.dtype} of shape {tuple(self.points.shape)}"
                raise UserError(f"points are float (p, 2), these are {came}", hint="give x y for each point")
            if self.point_labels is None:
                object.__setattr__(self, "point_labels", torch.ones(len(self.points), dtype=torch.int64))
            labels = self.point_labels
            assert labels is not None
            if len(labels) != len(self.points):
                raise UserError(f"{len(self.points)} points but {len(labels)} point labels", hint="give one for each")
            if bad := [i for i in labels.tolist() if i not in (0, 1)]:
                raise UserError(f"point label {bad[0]} is neither 1 (this) nor 0 (not this)")
        if self.boxes is not None:
            if self.boxes.ndim != 2 or self.boxes.shape[1] != 4 or not self.boxes.is_floating_point():
                came = f"{self.boxes.dtype} of shape {tuple(self.boxes.shape)}"
                raise UserError(f"boxes are float (b, 4), these are {came}", hint="give x0 y0 x1 y1 for each box")
            if (self.boxes[:, 2:] < self.boxes[:, :2]).any():
                raise UserError("a box ends before it begins", hint="boxes are x0 y0 x1 y1, not x y width height")
        if self.masks is not None and (self.masks.ndim != 3 or self.masks.dtype != torch.bool):
            came = f"{self.masks.dtype} of shape {tuple(self.masks.shape)}"
            raise UserError(f"mask prompts are bool (m, h, w), these are {came}", hint="threshold and stack them")
