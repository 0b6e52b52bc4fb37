"""Losses per pixel. Each ignores pixels labelled `ignore`, and where nothing is left it is 0 with a gradient of zeros.

`logits` are (b, classes, h, w), or any further axes after the classes; `target` are labels of the same size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from scipy import ndimage
from torch import Tensor

from masklet.structures.errors import UserError


def cross_entropy(
    logits: Float[Tensor, "b k *size"],
    target: Integer[Tensor, " b *size"],
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    smoothing: float = 0.0,
    pixel_weight: Float[Tensor, " b *size"] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, ""]:
    """Minus the log of the right class's probability: the mean over labelled pixels, or their `"sum"` (FCN's paper).

    Class `weight`s make it a weighted mean, as in torch. `pixel_weight`s (see `border_weights`) only multiply.
    """
    if reduction not in ("mean", "sum"):
        raise UserError(f"reduction is {reduction!r}", hint="choose mean or sum")
    target = target.long()
    each = F.cross_entropy(logits.float(), target, weight, None, ignore, None, "none", smoothing)  # b *size
    total = (each if pixel_weight is None else each * pixel_weight).sum()
    return total if reduction == "sum" else total / _mass(target, ignore, weight)


def _mass(target: Integer[Tensor, " b *size"], ignore: int, weight: Float[Tensor, " k"] | None) -> Tensor:
    """What a weighted mean over the labelled pixels divides by; 1 where there are none."""
    valid = target != ignore
    if weight is None:
        return valid.sum().clamp(min=1)
    mass = (weight[target.where(valid, 0)] * valid).sum()
    return mass.where(mass > 0, 1)


def focal(
    logits: Float[Tensor, "b k *size"],
    target: Integer[Tensor, " b *size"],
    ignore: int = 255,
    gamma: float = 2.0,
    weight: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Cross entropy times (1 - p) ** gamma, so that pixels already right count little (Lin et al., 2017, eq. 4).

    p is the softmax probability of the right class; the mean is over labelled pixels. gamma 0 is cross entropy.
    """
    target = target.long()
    each = F.cross_entropy(logits.float(), target, ignore_index=ignore, reduction="none")  # b *size
    wrong = -torch.expm1(-each)  # 1 - p, without cancellation where p is almost 1
    each = wrong.clamp(min=1e-12) ** gamma * each  # the clamp keeps the slope finite for gamma below 1
    if weight is not None:
        each = each * weight[target.where(target != ignore, 0)]
    return each.sum() / _mass(target, ignore, weight)


def dice(
    logits: Float[Tensor, "b k *size"], target: Integer[Tensor, " b *size"], ignore: int = 255, smooth: float = 1.0
) -> Float[Tensor, ""]:
    """One minus the Dice overlap of probabilities and truth, mean over the classes that the batch has.

    Areas are summed over the whole batch, so a class of three pixels in one image does not weigh like a large one.
    """
    probs, valid = logits.float().softmax(1), target != ignore
    label = target.long().where(valid, 0)
    hit = probs.gather(1, label[:, None])[:, 0] * valid  # b *size
    overlap = hit.new_zeros(logits.shape[1]).index_add(0, label.flatten(), hit.flatten())
    truth = torch.bincount(label[valid], minlength=logits.shape[1])
    area = (probs * valid[:, None]).movedim(1, 0).flatten(1).sum(1)
    present = truth > 0
    loss = 1 - (2 * overlap + smooth) / (area + truth + smooth)
    return (loss * present).sum() / present.sum().clamp(min=1)


def mask_dice(
    logits: Float[Tensor, " n *size"], target: Float[Tensor, " n *size"], squared: bool = True, smooth: float = 1e-3
) -> Float[Tensor, " n"]:
    """One minus the Dice overlap, for each of n masks by itself; `squared` areas as SOLO and V-Net have them."""
    p, t = logits.float().sigmoid().flatten(1), target.flatten(1)
    areas = (p**2 + t**2 if squared else p + t).sum(1)
    return 1 - (2 * (p * t).sum(1) + (0 if squared else smooth)) / (areas + (2 if squared else 1) * smooth)


def mask_focal(
    logits: Float[Tensor, " n *size"], target: Float[Tensor, " n *size"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, " n"]:
    """Focal loss of the pixels of n masks, the mean for each by itself; pixels of an object count `alpha`, others the
    rest of 1 (Lin et al., 2017, eq. 5, on sigmoids)."""
    logits = logits.float()
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probs = logits.sigmoid()
    wrong = probs + target - 2 * probs * target  # 1 - p of what is true
    share = alpha * target + (1 - alpha) * (1 - target)
    return (share * wrong**gamma * each).flatten(1).mean(1)


def ohem_cross_entropy(
    logits: Float[Tensor, "b k *size"],
    target: Integer[Tensor, " b *size"],
    threshold: float = 0.7,
    min_kept: int = 100_000,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Cross entropy of the hard pixels only (online hard example mining): those whose right class is under `threshold`.

    At least `min_kept` pixels per image of the batch count, the hardest ones of the whole batch.
    """
    target = target.long()
    with torch.no_grad():
        each = F.cross_entropy(logits.float(), target, ignore_index=ignore, reduction="none").flatten()
        hard = each > -math.log(threshold)
        labelled = (target != ignore).flatten()
        least = min(min_kept * len(target), int(labelled.sum()))
        if int(hard.sum()) < least:
            hard = torch.zeros_like(hard)
            hard[each.where(labelled, -1).topk(least).indices] = True
    return cross_entropy(logits, target.where(hard.view_as(target), ignore), ignore, weight)


def hardest_cross_entropy(
    logits: Float[Tensor, "b k *size"], target: Integer[Tensor, " b *size"], ignore: int = 255, share: float = 0.2
) -> Float[Tensor, ""]:
    """Mean cross entropy of the worst `share` of all pixels of the batch (detectron2's DeepLab: hard pixel mining).

    Ignored pixels cost nothing but count where the share is taken.
    """
    each = F.cross_entropy(logits.float(), target.long(), ignore_index=ignore, reduction="none").flatten()
    return each.topk(max(int(share * each.numel()), 1)).values.mean()


def border_weights(ids: Integer[Tensor, "h w"], w0: float = 10.0, sigma: float = 5.0) -> Float[Tensor, "h w"]:
    """1 + w0 exp(-(d1 + d2)^2 / 2 sigma^2) in the background between objects, 1 elsewhere (U-Net, eq. 2).

    d1 and d2 are the distances to the nearest and the second nearest object: where two touch almost, the gap counts
    most, and the net learns to keep it. `ids` numbers the objects from 1; 0 is background.
    """
    labels = ids.cpu().numpy()
    order = np.unique(labels, return_inverse=True)[1]
    order = np.where(labels == 0, 0, order.reshape(labels.shape) + 1)  # objects numbered from 1, with or without holes
    reach = math.ceil(6 * sigma)  # further away the weight is under w0 * 2e-8: look no further
    first, second = np.full((2, *labels.shape), np.inf, dtype=np.float32)
    for number, box in enumerate(ndimage.find_objects(order), 1):
        if box is None:  # the background's own number
            continue
        near = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in box)
        distance = ndimage.distance_transform_edt(order[near] != number).astype(np.float32)
        second[near] = np.minimum(second[near], np.maximum(first[near], distance))
        first[near] = np.minimum(first[near], distance)
    weights = 1 + w0 * np.exp(-((first + second) ** 2) / (2 * sigma**2)) * (labels == 0)
    return torch.from_numpy(weights.astype(np.float32)).to(ids.device)
