"""Dense masks and label maps: overlaps, boundaries, and the table that every semantic score comes from."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Integer, UInt8
from torch import Tensor


def pairwise_iou(a: Bool[Tensor, "n h w"], b: Bool[Tensor, "m h w"]) -> Float[Tensor, "n m"]:
    """Overlap of every mask in `a` with every mask in `b`; 0 where both are empty."""
    a, b = a.flatten(1), b.flatten(1)
    inter = torch.zeros(len(a), len(b), device=a.device)
    for part_a, part_b in zip(a.split(2**18, dim=1), b.split(2**18, dim=1), strict=True):  # floats only of a piece
        inter += part_a.float() @ part_b.float().T
    return inter / (a.sum(1)[:, None] + b.sum(1) - inter).clamp(min=1)


def boundary(masks: Bool[Tensor, "n h w"], width: int = 1) -> Bool[Tensor, "n h w"]:
    """Mask pixels at most `width` steps (of a king) from the background; outside the image counts as background."""
    outside = F.pad((~masks).float(), (width, width, width, width), value=1.0)
    near = F.max_pool2d(outside, (1, 2 * width + 1), stride=1)
    return masks & (F.max_pool2d(near, (2 * width + 1, 1), stride=1) > 0)


def confusion(
    truth: Integer[Tensor, "*shape"], pred: Integer[Tensor, "*shape"], num_classes: int, ignore: int = 255
) -> Int64[Tensor, "k k"]:
    """How many pixels of each true class (row) were called each class (column); truth `ignore` does not count."""
    k = num_classes
    truth, pred = truth.flatten(), pred.flatten()
    if not truth.numel():
        return torch.zeros(k, k, dtype=torch.int64, device=truth.device)
    small_truth, small_pred = (_bytes(truth), _bytes(pred)) if k <= 255 else (None, None)
    # Row 0 collects the ignored pixels. In bytes 255 + 1 is 0, so that the common case is a single addition.
    if ignore == 255 and small_truth is not None:
        rows = small_truth + 1
    else:
        rows = torch.where(truth == ignore, -1, truth.long()) + 1
    if int(rows.max()) > k or (rows.dtype != torch.uint8 and int(rows.min()) < 0):
        bad = truth[(truth != ignore) & ((truth < 0) | (truth >= k))]
        raise ValueError(f"truth contains the label {int(bad[0])}; labels are 0..{k - 1}, and {ignore} to ignore")
    if small_pred is None or int(small_pred.max()) >= k:
        pred = torch.where(rows == 0, 0, pred.long())  # anything may be predicted where nobody counts
        if (bad := pred[(pred < 0) | (pred >= k)]).numel():
            raise ValueError(f"the prediction contains the label {int(bad[0])}; labels are 0..{k - 1}")
        small_pred = pred
    bins = (k + 1) * k
    # Neighbours mostly share a code, and a counter just written is slow to read: they take turns in four tables.
    copies = 4 if 4 * bins <= 2**15 else 1
    codes = rows.to(torch.int16 if copies * bins <= 2**15 else torch.int64).mul_(k)
    codes += small_pred
    if copies > 1:
        body = codes[: len(codes) // 256 * 256].view(-1, 256)
        body += (torch.arange(256, device=codes.device) % copies * bins).to(codes.dtype)
    return torch.bincount(codes, minlength=copies * bins).view(copies, k + 1, k).sum(0)[1:]


def _bytes(labels: Integer[Tensor, " n"]) -> UInt8[Tensor, " n"] | None:
    """The labels in one byte each, or None where some do not fit."""
    if labels.dtype == torch.uint8:
        return labels
    if labels.device.type != "cpu":
        low, high = labels.aminmax()
        return labels.to(torch.uint8) if low >= 0 and high <= 255 else None
    wide, narrow, bits = labels.numpy(), np.empty(len(labels), np.uint8), 0
    for i in range(0, len(wide), 2**16):  # memory is read once: check and narrow a piece while it is in the cache
        piece = wide[i : i + 2**16]
        bits |= int(np.bitwise_or.reduce(piece))  # shows every high bit that is set anywhere, and the sign
        narrow[i : i + 2**16] = piece
    return torch.from_numpy(narrow) if 0 <= bits <= 255 else None
