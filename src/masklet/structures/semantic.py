"""One class for every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from masklet.structures.classes import Classes
from masklet.structures.errors import UserError


@dataclass(frozen=True, eq=False)
class SemanticMap:
    """The class of every pixel of one image, and the probabilities behind it where they were kept."""

    labels: Integer[Tensor, "h w"]
    classes: Classes
    probs: Float[Tensor, "k h w"] | None = None

    def __post_init__(self) -> None:
        if self.labels.ndim != 2:
            raise UserError(f"a label map has two axes, this one has shape {tuple(self.labels.shape)}")
        if self.labels.dtype not in (torch.uint8, torch.int64):
            raise UserError(f"a label map is uint8 or int64, this one is {self.labels.dtype}", hint="convert it first")
        self.classes.check(self.labels)
        if self.probs is not None and self.probs.shape != (len(self.classes), *self.size):
            expected = (len(self.classes), *self.size)
            raise UserError(f"probs have shape {tuple(self.probs.shape)}, expected {expected}", hint="give K, H, W")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.labels.shape[0], self.labels.shape[1]

    def mask(self, name: str | int) -> Bool[Tensor, "h w"]:
        """Where the image shows one class, given by name or label."""
        return self.labels == self.classes.index(name)

    def area(self) -> dict[str, float]:
        """The share of the image that each class covers, ignored pixels included in the whole."""
        counts = torch.bincount(self.labels.flatten()[self.labels.flatten() != self.classes.ignore],
                                minlength=len(self.classes))  # fmt: skip
        pixels = max(self.labels.numel(), 1)
        return {name: int(c) / pixels for name, c in zip(self.classes.names, counts, strict=True)}
