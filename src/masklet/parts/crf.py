"""Dense CRF: neighbours and pixels of one colour should agree; sharpens the blurred edges of a coarse net."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from masklet.ops.permutohedral import Lattice, lattice
from masklet.structures.errors import UserError


class DenseCRF(nn.Module):
    """A random field over all pairs of pixels, solved by mean field (Krähenbühl and Koltun, 2011).

    Two pixels with different classes cost `smooth_weight` times a Gaussian of their distance (`smooth_pixels`), plus
    `colour_weight` times a Gaussian of their distance and of their colours (`colour_pixels`, `colour_steps` of 255).
    Defaults are those of DeepLab v2 on PASCAL VOC. Gaussians are normalised as in the authors' code (D^-1/2 K D^-1/2,
    each pixel a neighbour of itself) and approximated on a permutohedral lattice; against sums over all pairs the
    probabilities are off by some hundredths at most where they are undecided (tests/parts/test_crf.py).
    """

    def __init__(
        self,
        smooth_weight: float = 3.0,
        smooth_pixels: float = 3.0,
        colour_weight: float = 4.0,
        colour_pixels: float = 121.0,
        colour_steps: float = 5.0,
        steps: int = 10,
    ) -> None:
        super().__init__()
        if min(smooth_pixels, colour_pixels, colour_steps) <= 0 or steps < 0:
            raise UserError(
                f"the deviations are {smooth_pixels}, {colour_pixels} and {colour_steps}, steps {steps}",
                hint="deviations are above 0, steps from 0 up",
            )
        self.smooth_weight, self.smooth_pixels = smooth_weight, smooth_pixels
        self.colour_weight, self.colour_pixels, self.colour_steps = colour_weight, colour_pixels, colour_steps
        self.steps = steps

    def forward(self, images: Float[Tensor, "b 3 h w"], probs: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """Probabilities after the field has spoken; `images` are RGB in 0..1, `probs` a net's softmax at their size."""
        return torch.stack([self._one(image, p) for image, p in zip(images, probs, strict=True)])

    def _one(self, image: Float[Tensor, "3 h w"], probs: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        size = probs.shape[1:]
        unary = probs.float().clamp(min=1e-8).log().flatten(1).T  # n k
        kernels = [
            (weight, grid, _inverse_root(grid, unary))
            for weight, grid in zip((self.smooth_weight, self.colour_weight), self._lattices(image), strict=True)
        ]
        q = unary.softmax(1)
        for _ in range(self.steps):
            agree = sum(weight * root * grid.filter(root * q) for weight, grid, root in kernels)
            q = (unary + agree).softmax(1)
        return q.T.reshape(-1, *size).to(probs)

    def _lattices(self, image: Float[Tensor, "3 h w"]) -> tuple[Lattice, Lattice]:
        height, width = image.shape[1:]
        rows, columns = torch.meshgrid(
            torch.arange(height, device=image.device), torch.arange(width, device=image.device), indexing="ij"
        )
        place = torch.stack([rows, columns], -1).reshape(-1, 2).float()
        colour = (image.float() * 255).flatten(1).T
        near_alike = torch.cat([place / self.colour_pixels, colour / self.colour_steps], 1)
        return lattice(place / self.smooth_pixels), lattice(near_alike)


def _inverse_root(grid: Lattice, like: Float[Tensor, "n k"]) -> Float[Tensor, "n 1"]:
    """One over the square root of what the filter makes of ones."""
    return grid.filter(like.new_ones(len(like), 1)).clamp(min=1e-20).rsqrt()
