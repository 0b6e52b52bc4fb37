"""Many binary masks of one image, small in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from masklet.ops import rle
from masklet.ops.rle import RLE
from masklet.structures.errors import UserError
from masklet.structures.selection import Keep, positions


@dataclass(frozen=True)
class Masks:
    """Binary masks of one height x width image as run lengths; `dense()` makes pixels, on demand."""

    height: int
    width: int
    items: tuple[RLE, ...] = ()

    def __post_init__(self) -> None:
        if self.height < 0 or self.width < 0:
            raise UserError(f"masks cannot be {self.height}x{self.width}", hint="give height and width in pixels")
        object.__setattr__(self, "items", tuple(self.items))
        for i, item in enumerate(self.items):
            if (item.height, item.width) != self.size:
                message = f"mask {i} is {item.height}x{item.width} but the image is {self.height}x{self.width}"
                raise UserError(message, hint="resize the mask or use the original image")

    @classmethod
    def from_dense(cls, masks: Tensor | np.ndarray) -> Masks:
        """From a bool (n, h, w) stack."""
        if masks.ndim != 3:
            raise UserError(f"masks need the shape (n, h, w), these have {tuple(masks.shape)}")
        try:
            return cls(masks.shape[1], masks.shape[2], tuple(rle.encode_many(masks)))
        except ValueError as error:
            raise UserError(*str(error).split("; ", 1)) from None

    @classmethod
    def from_ids(cls, ids: Tensor | np.ndarray) -> tuple[Masks, Int64[Tensor, " n"]]:
        """The mask of every number that an (h, w) id map holds, by rising number, and the numbers; 0 is background."""
        if ids.ndim != 2:
            raise UserError(f"an id map has the shape (h, w), this one has {tuple(ids.shape)}")
        array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else ids
        try:
            numbers, items = rle.from_ids(array)
        except ValueError as error:
            raise UserError(*str(error).split("; ", 1)) from None
        return cls(array.shape[0], array.shape[1], tuple(items)), torch.from_numpy(numbers)

    @classmethod
    def from_crops(
        cls, crops: Sequence[Tensor | np.ndarray], corners: Sequence[tuple[int, int]] | Tensor, height: int, width: int
    ) -> Masks:
        """From small bool masks and the (x0, y0) where each belongs; the full images are never made."""
        where = corners.tolist() if isinstance(corners, Tensor) else corners
        if len(crops) != len(where):
            raise UserError(f"{len(crops)} crops but {len(where)} corners", hint="give one (x0, y0) for each crop")
        try:
            items = rle.from_crops(crops, [(int(x), int(y)) for x, y in where], height, width)
        except ValueError as error:
            raise UserError(*str(error).split("; ", 1)) from None
        return cls(height, width, tuple(items))

    @classmethod
    def from_rle(
        cls, rles: Sequence[RLE | Mapping[str, Any]], height: int | None = None, width: int | None = None
    ) -> Masks:
        """From run lengths, ours or COCO's {"size", "counts"}; the size is needed only where there are none."""
        try:
            items = [item if isinstance(item, RLE) else rle.from_coco(item) for item in rles]
        except ValueError as error:
            raise UserError(*str(error).split("; ", 1)) from None
        if height is None or width is None:
            if not items:
                raise UserError("no masks, so their size is unknown", hint="give height and width")
            height, width = items[0].height, items[0].width
        return cls(height, width, tuple(items))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, keep: Keep) -> Masks:
        return Masks(self.height, self.width, tuple(self.items[i] for i in positions(keep, len(self))))

    def dense(self) -> Bool[Tensor, "n h w"]:
        """All masks as pixels: n * h * w bytes."""
        return torch.from_numpy(rle.decode_many(self.items, self.height, self.width))

    def crop(self, i: int) -> tuple[Bool[Tensor, "h w"], int, int]:
        """Mask `i` inside its box, and the corner x0, y0 of that box."""
        part, x0, y0 = rle.crop(self.items[i])
        return torch.from_numpy(part), x0, y0

    def rle(self) -> list[dict[str, object]]:
        """COCO's JSON form: {"size": [h, w], "counts": "..."} for each mask."""
        counts = rle.to_strings(self.items)
        return [{"size": [self.height, self.width], "counts": text} for text in counts]

    def areas(self) -> Int64[Tensor, " n"]:
        """Pixels of each mask."""
        return torch.from_numpy(rle.area(self.items))

    def boxes(self) -> Float[Tensor, "n 4"]:
        """The smallest box around each mask; zeros where a mask is empty."""
        return torch.from_numpy(rle.boxes(self.items)).float()

    def iou(self, other: Masks) -> Float64[Tensor, "n m"]:
        """Overlap of every mask with every mask of `other`, from the run lengths."""
        if self.size != other.size:
            message = f"masks of {self.height}x{self.width} and of {other.height}x{other.width} do not overlay"
            raise UserError(message, hint="resize one of them")
        return torch.from_numpy(rle.iou(self.items, other.items))

    def union(self) -> Bool[Tensor, "h w"]:
        """Where any of the masks is."""
        if not self.items:
            return torch.zeros(self.height, self.width, dtype=torch.bool)
        return torch.from_numpy(rle.decode(rle.merge(self.items)))
