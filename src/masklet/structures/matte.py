"""How much of each pixel is foreground."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from masklet.structures.errors import UserError


@dataclass(frozen=True, eq=False)
class Matte:
    """Opacity of the foreground in [0, 1] for every pixel, and the foreground's own colours where estimated."""

    alpha: Float[Tensor, "1 h w"]
    foreground: Float[Tensor, "3 h w"] | None = None

    def __post_init__(self) -> None:
        if self.alpha.ndim != 3 or self.alpha.shape[0] != 1 or not self.alpha.is_floating_point():
            came = f"{self.alpha.dtype} of shape {tuple(self.alpha.shape)}"
            raise UserError(f"alpha is float (1, h, w), this is {came}", hint="divide 8-bit alpha by 255")
        if self.alpha.numel() and not (self.alpha.min() >= 0 and self.alpha.max() <= 1):  # also catches NaN
            came = f"{float(self.alpha.min()):g}..{float(self.alpha.max()):g}"
            raise UserError(f"alpha must be in 0..1, this one is in {came}", hint="divide 8-bit alpha by 255")
        if self.foreground is not None and self.foreground.shape != (3, *self.size):
            came = "x".join(map(str, self.foreground.shape))
            raise UserError(f"foreground is {came}, but alpha needs 3x{self.size[0]}x{self.size[1]}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.alpha.shape[1], self.alpha.shape[2]

    def over(self, background: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """The foreground in front of another picture of the same size."""
        if self.foreground is None:
            raise UserError("this matte has no foreground colours", hint="use Matte(alpha, foreground=image)")
        if background.shape[1:] != self.alpha.shape[1:]:
            (h, w), (height, width) = background.shape[1:], self.size
            raise UserError(f"the background is {h}x{w} but the matte is {height}x{width}", hint="resize it first")
        return background + self.alpha * (self.foreground - background)
