"""A run of frames of a video together with the objects in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from masklet.structures.errors import UserError


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames in the order of time (float in [0, 1] or uint8) and the mask of every object in each of them.

    An image is a clip of one frame. An object may be out of sight: its mask is then empty. `known` says for each frame
    whether its masks are truth; the other frames only show how things move (all are known where it is not given).
    """

    frames: Float32[Tensor, "t 3 h w"] | UInt8[Tensor, "t 3 h w"]
    masks: Bool[Tensor, "k t h w"]
    name: str = ""
    known: Bool[Tensor, " t"] | None = None

    def __post_init__(self) -> None:
        of = f" of {self.name}" if self.name else ""
        if self.frames.ndim != 4 or self.frames.shape[1] != 3 or not len(self.frames):
            shape = tuple(self.frames.shape)
            raise UserError(f"the frames{of} have shape {shape}", hint="frames are RGB, (T, 3, H, W), at least one")
        if self.masks.ndim != 4 or self.masks.dtype != torch.bool:
            came = f"{self.masks.dtype} of shape {tuple(self.masks.shape)}"
            raise UserError(f"the masks{of} are bool (k, t, h, w), these are {came}", hint="threshold and stack them")
        here, there = (len(self.frames), *self.frames.shape[2:]), tuple(self.masks.shape[1:])
        if here != there:
            message = f"the masks{of} cover {_told(there)} but the frames are {_told(here)}"
            raise UserError(message, hint="give one mask for each object and frame, of the frame's size")
        if self.known is not None and (self.known.dtype != torch.bool or tuple(self.known.shape) != here[:1]):
            message = f"known{of} is {self.known.dtype} of shape {tuple(self.known.shape)}"
            raise UserError(message, hint=f"give True or False for each of the {here[0]} frames")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.frames.shape[2], self.frames.shape[3]


def _told(shape: tuple[int, ...]) -> str:
    t, h, w = shape
    return f"{t} x {h}x{w}"
