"""How an image of any size is laid into one that a network can take: padded inside, cropped back outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Frame(Protocol):
    """How an image of any size is laid into one that the network can take, and what the scores then cover."""

    def covers(self, height: int, width: int) -> tuple[int, int]: ...
    def pad(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]: ...


@dataclass(frozen=True)
class Multiple:
    """Sides rounded up to a multiple of the deepest stride (`plus` 1 where corners align), with zeros below and right.

    After normalisation zero is a middling colour, which training shows around small pictures too. (Repeating the last
    pixels makes streaks, and streaks at the bottom of a street are poles.) `Multiple(1)` leaves every image as it is.
    """

    stride: int
    plus: int = 0

    def covers(self, height: int, width: int) -> tuple[int, int]:
        step, plus = self.stride, self.plus
        return -((plus - height) // step) * step + plus, -((plus - width) // step) * step + plus

    def pad(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        height, width = self.covers(*x.shape[-2:])
        below, right = height - x.shape[-2], width - x.shape[-1]
        return F.pad(x, (0, right, 0, below)) if below or right else x


@dataclass(frozen=True)
class Reaching:
    """Nothing is padded, but the scores reach past an image whose sides are no multiple of `stride`.

    Strided convolutions round up; detectron2 enlarges what they give by the whole stride and cuts off the rest.
    """

    stride: int

    def covers(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // self.stride) * self.stride, -(-width // self.stride) * self.stride

    def pad(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x


@dataclass(frozen=True)
class Mirror:
    """Mirror images around the picture, as much as convolutions without padding eat away (92 per side at depth 4).

    Backwards from the coarsest map: `m` pixels after its two convolutions become 2 m - 4 one level up, and so on.
    """

    depth: int

    @property
    def margin(self) -> int:
        """Pixels lost per side: two convolutions at every level, on the way down and (but for the deepest) up."""
        return 2 * (2 ** (self.depth + 1) - 1) + 2 * (2**self.depth - 1)

    def covers(self, height: int, width: int) -> tuple[int, int]:
        step, lost = 2**self.depth, 4 * (2**self.depth - 1)
        return -(-(height + lost) // step) * step - lost, -(-(width + lost) // step) * step - lost

    def pad(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        (height, width), m = self.covers(*x.shape[-2:]), self.margin
        return mirror_pad(x, m, m + height - x.shape[-2], m, m + width - x.shape[-1])


def mirror_pad(x: Float[Tensor, "b c h w"], top: int, bottom: int, left: int, right: int) -> Float[Tensor, "b c h2 w2"]:
    """Continue `x` by mirror images of itself (border pixel not repeated), as far out as wanted.

    `F.pad(mode="reflect")` stops at one mirror image, too little for a valid U-Net on a small picture.
    """

    def wave(n: int, before: int, after: int) -> Tensor:
        """Indices 0 1 2 1 0 1 2 ... for n = 3."""
        period = max(2 * (n - 1), 1)
        index = torch.arange(-before, n + after, device=x.device) % period
        return torch.minimum(index, period - index)

    return x[:, :, wave(x.shape[-2], top, bottom)][:, :, :, wave(x.shape[-1], left, right)]
