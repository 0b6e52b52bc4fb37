"""Boxes as x0 y0 x1 y1 in float pixels, ends exclusive."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Width times height; 0 for a box that ends before it begins."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def clip(boxes: Float[Tensor, "*n 4"], height: int, width: int) -> Float[Tensor, "*n 4"]:
    """The part of each box that lies inside the image."""
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def xywh_to_xyxy(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """From COCO's corner, width and height to two corners."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def xyxy_to_xywh(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """From two corners to COCO's corner, width and height."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def pairwise_iou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Overlap of every box in `a` with every box in `b`; 0 where both are empty."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    union = area(a)[:, None] + area(b) - inter
    return torch.where(union > 0, inter / union, 0)


def of_masks(masks: Bool[Tensor, "n h w"]) -> Float[Tensor, "n 4"]:
    """The smallest box around each mask; zeros where a mask is empty."""
    n, h, w = masks.shape
    if not masks.numel():
        return torch.zeros(n, 4, device=masks.device)
    columns, rows = masks.any(1).byte(), masks.any(2).byte()  # n w, n h
    first = [columns.argmax(1), rows.argmax(1)]
    last = [w - columns.flip(1).argmax(1), h - rows.flip(1).argmax(1)]
    return torch.stack(first + last, 1).float() * columns.any(1)[:, None]
