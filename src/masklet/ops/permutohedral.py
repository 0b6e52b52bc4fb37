"""Gaussian filters in many dimensions, in time that grows with the number of points only (Adams et al., 2010).

Points are splatted onto the corners of a lattice of simplices, the lattice is blurred along its axes, and the points
read their values back. In five dimensions (place and colour) a simplex has six corners, where a grid's cell has 32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Lattice:
    """Where n points lie between the m corners that they touch, and each corner's neighbours along every axis."""

    corners: Int64[Tensor, "n d1"]  # d + 1 corners of each point's simplex
    weights: Float[Tensor, "n d1"]  # barycentric, they add up to one
    neighbours: Int64[Tensor, "d1 m 3"]  # along an axis: the corner itself, before, after; m stands for "none"
    size: int  # m
    order: Int64[Tensor, " nd1"]  # the entries of `corners`, sorted by corner
    starts: Int64[Tensor, " m"]  # where each corner's entries begin in that order

    def filter(self, values: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """For every point the sum over all points of values times a Gaussian of their distance, up to a factor.

        The factor is the same for all points but for the lattice's own unevenness of some percent: divide by what the
        filter makes of ones.
        """
        # Sums of weighted rows, three times: embedding bags make them without the rows in between.
        points, weights = self.order // self.corners.shape[1], self.weights.flatten()[self.order]
        grid = F.embedding_bag(points, values, self.starts, mode="sum", per_sample_weights=weights)
        none = grid.new_zeros(1, grid.shape[1])
        kernel = grid.new_tensor([1.0, 0.5, 0.5]).repeat(self.size, 1)
        for around in self.neighbours:
            grid = F.embedding_bag(around, torch.cat([grid, none]), mode="sum", per_sample_weights=kernel)
        return F.embedding_bag(self.corners, grid, mode="sum", per_sample_weights=self.weights)


def lattice(features: Float[Tensor, "n d"]) -> Lattice:
    """The lattice of points whose coordinates are in units of the Gaussian's standard deviation."""
    n, d = features.shape
    above, rest, rank = _simplex(features)
    # Barycentric weights: how far the point is from the corner nearest to the origin, in the order of the ranks.
    delta = (above - rest) / (d + 1)
    weights = features.new_zeros(n, d + 2)
    weights.scatter_add_(1, d - rank, delta).scatter_add_(1, d + 1 - rank, -delta)
    weights[:, 0] += 1 + weights[:, d + 1]
    steps = torch.arange(d + 1, device=features.device)
    canonical = steps[:, None] - (d + 1) * (steps[None] > d - steps[:, None])  # corner, rank
    keys = rest[:, None].long() + canonical[:, rank].transpose(0, 1)  # n corner axis
    keys, base = _offset(keys[..., :d].flatten(0, 1), d)  # the last coordinate follows from the others
    factors = base ** torch.arange(d, device=keys.device)
    codes, corners = torch.unique((keys * factors).sum(1), return_inverse=True)
    neighbours, own = [], torch.arange(len(codes), device=codes.device)
    for axis in range(d + 1):
        step = torch.full((d,), -1, device=keys.device)
        if axis < d:
            step[axis] = d
        away = int((step * factors).sum())
        neighbours.append(torch.stack([own, _find(codes, codes - away), _find(codes, codes + away)], 1))
    order = corners.argsort(stable=True)
    starts = torch.searchsorted(corners[order], own)
    weights = weights[:, : d + 1].contiguous()
    return Lattice(corners.view(n, d + 1), weights, torch.stack(neighbours), len(codes), order, starts)


def _simplex(features: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor, Int64[Tensor, "n d1"]]:
    """Points in the lattice's plane (d + 1 coordinates that add up to 0), the corner below them, and the ranks."""
    d = features.shape[1]
    axes = torch.arange(d, device=features.device, dtype=torch.float64)
    scale = math.sqrt(2 / 3) * (d + 1) / torch.sqrt((axes + 1) * (axes + 2))
    scaled = features.double() * scale
    after = scaled.flip(1).cumsum(1).flip(1)  # sums of a coordinate and all behind it
    tails = torch.cat([after, torch.zeros_like(after[:, :1])], 1)
    above = tails.clone()
    above[:, 1:] -= (axes + 1) * scaled  # axis i: what stands behind it, minus i times its own
    rest = (above / (d + 1)).round() * (d + 1)
    excess = (rest.sum(1, keepdim=True) / (d + 1)).round().long()
    order = (above - rest).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1) + excess
    low, high = rank < 0, rank > d
    rest = rest + (d + 1) * (low.double() - high.double())
    rank = rank + (d + 1) * (low.long() - high.long())
    return above.to(features), rest.to(features), rank


def _offset(keys: Int64[Tensor, "m d"], d: int) -> tuple[Int64[Tensor, "m d"], int]:
    """Coordinates from d + 1 up (room for neighbours), and a base in which each is one digit."""
    keys = keys - keys.amin(0) + d + 1
    base = int(keys.max()) + d + 2
    if d * math.log2(base) >= 63:
        raise ValueError(f"{base} steps in {d} dimensions are too many to number; use larger standard deviations")
    return keys, base


def _find(codes: Int64[Tensor, " m"], wanted: Int64[Tensor, " m"]) -> Int64[Tensor, " m"]:
    """Where in the sorted codes each wanted one is; m where it is not."""
    place = torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)
    return torch.where(codes[place] == wanted, place, len(codes))
