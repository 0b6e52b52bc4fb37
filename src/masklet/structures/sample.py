"""One image together with what is known about it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Integer, UInt8
from torch import Tensor

from masklet.structures.classes import Classes
from masklet.structures.errors import UserError
from masklet.structures.instances import Instances
from masklet.structures.matte import Matte
from masklet.structures.panoptic import Panoptic


@dataclass(frozen=True, eq=False)
class Sample:
    """An image (float in [0, 1] or uint8) and its ground truth, all of one size."""

    image: Float32[Tensor, "3 h w"] | UInt8[Tensor, "3 h w"]
    name: str = ""
    semantic: Integer[Tensor, "h w"] | None = None
    instances: Instances | None = None
    panoptic: Panoptic | None = None
    matte: Matte | None = None
    depth: Float32[Tensor, "d h w"] | None = None  # metres, 0 where unknown (d = 1), or HHA in [0, 1] (d = 3)
    original_size: tuple[int, int] | None = None  # before any resizing; the image's own size where not given
    classes: Classes | None = None

    def __post_init__(self) -> None:
        of = f" of {self.name}" if self.name else ""
        if self.image.ndim != 3 or self.image.shape[0] != 3:
            raise UserError(f"the image{of} has shape {tuple(self.image.shape)}", hint="images are RGB, (3, H, W)")
        if self.image.dtype not in (torch.float32, torch.uint8):
            hint = "give float32 in 0..1 or uint8"
            raise UserError(f"the image{of} is {self.image.dtype}", hint=hint)
        if self.semantic is not None and (self.semantic.ndim != 2 or self.semantic.dtype not in _LABELS):
            came = f"{self.semantic.dtype} of shape {tuple(self.semantic.shape)}"
            raise UserError(f"the label map{of} is {came}", hint="label maps are uint8 or int64, (H, W)")
        truths = {
            "label map": None if self.semantic is None else tuple(self.semantic.shape),
            "instances": None if self.instances is None else self.instances.size,
            "panoptic map": None if self.panoptic is None else self.panoptic.size,
            "matte": None if self.matte is None else self.matte.size,
            "depth map": None if self.depth is None else tuple(self.depth.shape[1:]),
        }
        height, width = self.size
        for what, size in truths.items():
            if size is not None and size != self.size:
                message = f"the {what}{of} is {size[0]}x{size[1]} but the image is {height}x{width}"
                raise UserError(message, hint="resize one to the other, or check that the files belong together")
        if self.semantic is not None and self.classes is not None:
            self.classes.check(self.semantic, f"label map{of}")
        if self.original_size is None:
            object.__setattr__(self, "original_size", self.size)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image as it is now."""
        return self.image.shape[1], self.image.shape[2]


_LABELS = (torch.uint8, torch.int64)
