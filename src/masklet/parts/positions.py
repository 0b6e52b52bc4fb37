"""Places as vectors of sines and cosines (Vaswani et al., 2017), on a line and in a picture."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

TEMPERATURE = 1e4


def _frequencies(count: int, device: torch.device | str | None) -> Float[Tensor, " count"]:
    """1 down to nearly 1 / TEMPERATURE, in equal ratios."""
    return TEMPERATURE ** -(torch.arange(count, dtype=torch.float32, device=device) / count)


def sine_line(places: Float[Tensor, " n"], channels: int) -> Float[Tensor, "n c"]:
    """Numbers as vectors: all sines, then all cosines, every frequency twice (as SAM 2 has it)."""
    angle = places[:, None] * _frequencies(channels // 4, places.device).repeat_interleave(2)
    return torch.cat([angle.sin(), angle.cos()], -1)


def sine_grid(
    height: int, width: int, channels: int, device: torch.device | str | None = None
) -> Float[Tensor, "c h w"]:
    """Cells of a map as vectors: rows in the first half of the channels, columns in the second.

    Cells count from 1 and the last one has the angle 2 pi (DETR's normalised form, Carion et al., 2020); sine and
    cosine of a frequency are neighbours.
    """
    axes = []
    for n in (height, width):
        place = torch.arange(1, n + 1, dtype=torch.float32, device=device) / (n + 1e-6) * (2 * math.pi)
        angle = place[:, None] * _frequencies(channels // 4, device)
        axes.append(torch.stack([angle.sin(), angle.cos()], -1).flatten(1).T)  # c/2 n
    down, right = axes
    return torch.cat([down[:, :, None].expand(-1, -1, width), right[:, None].expand(-1, height, -1)])


def rotary_angles(
    height: int, width: int, channels: int, device: torch.device | str | None = None
) -> Float[Tensor, "s c2"]:
    """How far each of c / 2 pairs of channels turns at every cell of a map, read row by row (Heo et al., 2024).

    The first half of the pairs turns with the column, the second half with the row.
    """
    pairs = _frequencies(channels // 4, device)
    x, y = (torch.arange(n, dtype=torch.float32, device=device)[:, None] * pairs for n in (width, height))
    return torch.cat([x.expand(height, -1, -1), y[:, None].expand(-1, width, -1)], -1).flatten(0, 1)
