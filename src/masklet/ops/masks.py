"""Dense masks and label maps: overlaps, boundaries, and the table that every semantic score comes from."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int16, Int64, Integer
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
    on_cpu = truth.device.type == pred.device.type == "cpu"
    table = _confusion_in_bytes(truth.numpy(), pred.numpy(), k) if on_cpu and ignore == 255 else None
    if table is not None:
        return table
    rows = torch.where(truth == ignore, -1, truth.long()) + 1  # row 0 collects the ignored pixels
    if (bad := truth[(rows < 0) | (rows > k)]).numel():
        raise ValueError(f"truth contains the label {int(bad[0])}; labels are 0..{k - 1}, and {ignore} to ignore")
    columns = torch.where(rows == 0, 0, pred.long())  # anything may be predicted where nobody counts
    if (bad := pred[(columns < 0) | (columns >= k)]).numel():
        raise ValueError(f"the prediction contains the label {int(bad[0])}; labels are 0..{k - 1}")
    return torch.bincount(rows * k + columns, minlength=(k + 1) * k).view(k + 1, k)[1:]


PIECE = 2**17  # pixels at a time: labels of 64 bits are read from memory once, and from the cache after that


def _confusion_in_bytes(
    truth: Integer[np.ndarray, " n"], pred: Integer[np.ndarray, " n"], k: int
) -> Int64[Tensor, "k k"] | None:
    """`confusion` of labels that fit a byte, with codes of 16 bits; None where this shortcut does not apply."""
    bins = (k + 1) * k
    if bins > 2**15 or not len(truth):
        return None
    # Neighbours mostly share a code, and a counter just written is slow to read: they take turns in four tables.
    copies = 4 if 4 * bins <= 2**15 else 1
    turns = (np.arange(256) % copies * bins).astype(np.int16)
    codes, columns = np.empty(len(truth), np.int16), np.empty(min(PIECE, len(truth)), np.int16)
    for i in range(0, len(truth), PIECE):
        rows = codes[i : i + PIECE]
        column = columns[: len(rows)]
        if not (_narrowed(truth[i : i + PIECE], rows) and _narrowed(pred[i : i + PIECE], column)):
            return None
        rows += 1
        rows &= 255  # 255, which is ignored, becomes row 0
        if rows.max() > k or column.max() >= k:
            return None
        rows *= k
        rows += column
        if copies > 1:
            body = rows[: len(rows) // 256 * 256].reshape(-1, 256)
            body += turns
    counts = torch.bincount(torch.from_numpy(codes), minlength=copies * bins)
    return counts.view(copies, k + 1, k).sum(0)[1:]


def _narrowed(labels: Integer[np.ndarray, " n"], out: Int16[np.ndarray, " n"]) -> bool:
    """Copies the labels to 16 bits if all of them fit a byte, which it says."""
    if labels.dtype != np.uint8:
        bits = int(np.bitwise_or.reduce(labels))  # shows every high bit that is set anywhere, and the sign
        if not 0 <= bits <= 255:
            return False
    np.copyto(out, labels, casting="unsafe")
    return True
