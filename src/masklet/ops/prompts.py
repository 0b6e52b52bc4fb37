"""Prompts that a person might have given, drawn at random from true masks: for training (SAM 2, appendix D.2)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


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
