"""Prompts that a person might have given, drawn at random from true masks: for training (SAM 2, appendix D.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

CELL = 4  # pixels


def random_clicks(
    truth: Bool[Tensor, "n h w"],
    found: Bool[Tensor, "n h w"] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "n 1 2"], Int64[Tensor, "n 1"]]:
    """A random pixel (x y) of each object, label 1; or, where a mask was `found`, of its mistakes.

    A missed pixel is clicked with label 1, a wrongly covered one with 0. Where there is no mistake, or no object, the
    click falls on the background with label 0. (A mask without background is clicked inside.)
    """
    wanted = truth if found is None else truth ^ found
    wanted = torch.where(wanted.flatten(1).any(1)[:, None, None], wanted, ~truth)
    wanted = torch.where(wanted.flatten(1).any(1)[:, None, None], wanted, torch.ones_like(truth))
    lots = torch.rand(truth.shape, generator=generator, device=truth.device).add_(1e-3)
    place = (lots * wanted).flatten(1).argmax(1)
    labels = truth.flatten(1).gather(1, place[:, None]).long()
    width = truth.shape[2]
    return torch.stack([place % width, place // width], -1)[:, None].float(), labels


def central_clicks(
    truth: Bool[Tensor, "n h w"],
    found: Bool[Tensor, "n h w"] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "n 1 2"], Int64[Tensor, "n 1"]]:
    """As `random_clicks`, but where a careful person clicks: in the middle of the object, or of the largest mistake.

    The middle is the pixel farthest from where nothing is wrong, as `masklet.ops.clicks` finds it, here to 4 pixels and
    by the larger of rows and columns, for all objects at once. Where nothing is that large the click is random.
    """
    wanted = truth if found is None else truth ^ found
    missed = F.avg_pool2d((wanted & truth).float()[:, None], CELL, ceil_mode=True)
    extra = F.avg_pool2d((wanted & ~truth).float()[:, None], CELL, ceil_mode=True)
    depth = torch.cat([_depth(missed > 0.99), _depth(extra > 0.99)], 1)  # n 2 h4 w4
    points, labels = random_clicks(truth, found, generator)
    lots = torch.rand(depth.shape, generator=generator, device=truth.device).mul_(0.9)  # among equals
    best = (depth + lots * (depth > 0)).flatten(1).argmax(1)
    n, (rows, columns) = len(truth), depth.shape[2:]
    kind, cell = best // (rows * columns), best % (rows * columns)
    y, x = cell // columns * CELL + CELL // 2, cell % columns * CELL + CELL // 2
    middle = torch.stack([x.clamp(max=truth.shape[2] - 1), y.clamp(max=truth.shape[1] - 1)], -1)[:, None].float()
    large = depth.flatten(1).amax(1)[:, None] > 0
    return torch.where(large[..., None], middle, points), torch.where(large, (1 - kind).view(n, 1), labels)


def _depth(inside: Bool[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """How many cells it is to the outside, 1 at the rim; at most 32. Beyond the picture is outside."""
    depth = inside.float()
    left = depth
    for _ in range(31):
        left = 1 - F.max_pool2d(F.pad(1 - left, (1, 1, 1, 1), value=1.0), 3, 1)
        if not left.any():
            break
        depth = depth + left
    return depth


def random_boxes(
    masks: Bool[Tensor, "n h w"], noise: float = 0.1, most: float = 20.0, generator: torch.Generator | None = None
) -> Float[Tensor, "n 4"]:
    """The box of each mask (first and last pixel; 0 for an empty one), every side moved at random.

    By at most `noise` of the box's extent along that axis and at most `most` pixels, but never out of the image.
    """
    height, width = masks.shape[1:]
    sides = []
    for axis, length in ((1, width), (2, height)):  # columns, then rows
        here = masks.any(axis)
        first = here.float().argmax(1)
        last = length - 1 - here.flip(1).float().argmax(1)
        there = here.any(1)
        sides.append((first * there, last * there))
    (x0, x1), (y0, y1) = sides
    boxes = torch.stack([x0, y0, x1, y1], 1).float()
    reach = ((boxes[:, 2:] - boxes[:, :2]) * noise).clamp(max=most).repeat(1, 2)
    moved = boxes + reach * (2 * torch.rand(boxes.shape, generator=generator, device=boxes.device) - 1)
    limit = moved.new_tensor([width - 1, height - 1, width - 1, height - 1])
    return moved.clamp(min=0).minimum(limit)
