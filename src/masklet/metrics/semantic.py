"""How well a label map agrees with the truth: accuracies, mean IoU and Dice, all from one table of counts.

With n_ij the pixels of true class i called j, t_i = Σ_j n_ij those of class i and p_i = Σ_j n_ji those called i:

    pixel_accuracy  Σ n_ii / Σ t_i                                (Long et al., 2015, sec. 5: "pixel acc.")
    mean_accuracy   mean over i of n_ii / t_i                     ("mean acc.")
    miou            mean over i of n_ii / (t_i + p_i - n_ii)      ("mean IU"; PASCAL VOC's Jaccard index)
    fwiou           Σ t_i IoU_i / Σ t_i                           ("f.w. IU")
    dice            mean over i of 2 n_ii / (t_i + p_i)           (= 2 IoU / (1 + IoU) for one class; F1)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from masklet.ops.masks import confusion
from masklet.structures import Classes, UserError
from masklet.structures.classes import names_of

__all__ = ["SemanticScore"]

_MEANS = ("pixel_accuracy", "mean_accuracy", "miou", "fwiou", "dice")


@dataclass
class SemanticScore:
    """Counts of (truth, prediction) pairs and the scores that follow from them.

    `classes` is a `Classes` value or a number of classes. Truth pixels equal to `ignore`, or of a class that `classes`
    leaves unscored, do not count at all.

    mode="dataset" (PASCAL VOC, Cityscapes, ADE20K): pixels of all images are added up first, then divided once.
    mode="image" (Atienza, Advanced Deep Learning with Keras, ch. 12): every image gets its own scores, with means
    over the classes that its truth contains, and a score is the mean over the images where it is defined.

    absent="skip": a class without pixels has no score and does not enter a mean (the NaN-mean of pytorch-fcn).
    absent="zero": it enters as 0. "Without pixels" means neither in the truth nor predicted (dataset mode; accuracy
    asks only the truth), or not in the truth of this image (image mode).
    """

    classes: Classes | int
    ignore: int = 255
    mode: str = "dataset"
    absent: str = "skip"
    confusion: Int[Tensor, "k k"] = field(init=False, repr=False)
    images: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.mode not in ("dataset", "image"):
            raise UserError(f"mode is {self.mode!r}", hint="choose 'dataset' or 'image'")
        if self.absent not in ("skip", "zero"):
            raise UserError(f"absent is {self.absent!r}", hint="choose 'skip' or 'zero'")
        count = self.classes if isinstance(self.classes, int) else len(self.classes)
        if count < 1:
            raise UserError(f"a score needs at least one class, got {count}")
        self.confusion = torch.zeros(count, count, dtype=torch.int64)
        self._sums = torch.zeros(len(_MEANS) + 3 * count, dtype=torch.float64)
        self._counts = torch.zeros(len(_MEANS) + 3 * count, dtype=torch.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names as they appear in the scores; numbers where only their count is known."""
        return names_of(self.classes)

    @property
    def scored(self) -> tuple[int, ...]:
        """The classes that have a score: all but those that `classes` leaves unscored."""
        left_out = () if isinstance(self.classes, int) else self.classes.unscored
        return tuple(i for i in range(len(self.confusion)) if i not in left_out)

    def update(self, pred: Tensor | np.ndarray, truth: Tensor | np.ndarray) -> None:
        """Adds one pair of (H, W) label maps, or (B, H, W) with one pair per image."""
        pred, truth = _labels(pred, "prediction"), _labels(truth, "truth")
        if pred.shape != truth.shape:
            raise UserError(
                f"prediction is {_size(pred)} but truth is {_size(truth)}",
                hint="resize the prediction to the truth (nearest)",
            )
        for one_pred, one_truth in zip(pred, truth, strict=True):
            table = self._count(one_pred, one_truth)
            self.confusion += table
            self.images += 1
            if self.mode == "image":
                scores = self._scores(table)
                self._sums += scores.nan_to_num(0.0)
                self._counts += ~scores.isnan()

    def merge(self, other: SemanticScore) -> None:
        """Adds the counts of another part of the data; the order does not matter."""
        mine, theirs = (
            (self.names, self.ignore, self.mode, self.absent),
            (other.names, other.ignore, other.mode, other.absent),
        )
        if mine != theirs:
            raise UserError(f"cannot merge scores of different settings: {mine} and {theirs}")
        self.confusion += other.confusion
        self.images += other.images
        self._sums += other._sums
        self._counts += other._counts

    def compute(self) -> dict[str, float]:
        """The five means, then iou/<class>, dice/<class> and accuracy/<class>; NaN where nothing was there to score."""
        scores = self._scores(self.confusion) if self.mode == "dataset" else self._sums / self._counts
        keys = (*_MEANS, *(f"{kind}/{name}" for kind in ("iou", "dice", "accuracy") for name in self.names))
        left_out = {name for i, name in enumerate(self.names) if i not in self.scored}
        return {k: v for k, v in zip(keys, scores.tolist(), strict=True) if k.partition("/")[2] not in left_out}

    def table(self) -> list[dict[str, float | int | str]]:
        """One row per scored class: its pixels in the truth, IoU, Dice and accuracy."""
        scores, pixels = self.compute(), self.confusion.sum(1).tolist()
        return [
            {"class": self.names[i], "pixels": pixels[i]}
            | {kind: scores[f"{kind}/{self.names[i]}"] for kind in ("iou", "dice", "accuracy")}
            for i in self.scored
        ]

    def _count(self, pred: Tensor, truth: Tensor) -> Tensor:
        table = confusion(truth, pred, len(self.confusion), ignore=self.ignore).cpu()
        for i in set(range(len(table))) - set(self.scored):
            table[i] = 0
        return table

    def _scores(self, table: Int[Tensor, "k k"]) -> Float[Tensor, " n"]:
        """The means, then IoU, Dice and accuracy of each class, NaN where undefined."""
        table = table.double()
        hit, true, called = table.diag(), table.sum(1), table.sum(0)
        union = true + called - hit
        seen = true > 0 if self.mode == "image" else union > 0
        nan, fill = torch.tensor(torch.nan, dtype=torch.float64), 0.0 if self.absent == "zero" else torch.nan
        iou = torch.where(seen, hit / union, fill)
        dice = torch.where(seen, 2 * hit / (true + called), fill)
        accuracy = torch.where(true > 0, hit / true, fill)
        total, keep = true.sum(), list(self.scored)
        empty = nan if self.absent == "skip" else torch.zeros_like(nan)
        means = [
            hit.sum() / total if total else empty,
            accuracy[keep].nanmean(),
            iou[keep].nanmean(),
            (true * iou.nan_to_num(0.0)).sum() / total if total else empty,
            dice[keep].nanmean(),
        ]
        return torch.cat([torch.stack(means), iou, dice, accuracy])


def _labels(labels: Tensor | np.ndarray, role: str) -> Tensor:
    """A (B, H, W) tensor of integers from what a caller has."""
    if isinstance(labels, np.ndarray):
        labels = torch.from_numpy(
            np.ascontiguousarray(labels.astype(np.int64) if labels.dtype == np.uint16 else labels)
        )
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(
            f"{role} holds {str(labels.dtype).removeprefix('torch.')}, not labels; take the argmax over classes first"
        )
    if labels.ndim not in (2, 3):
        raise UserError(f"{role} has shape {tuple(labels.shape)}", hint="expected (H, W) or (B, H, W)")
    labels = labels.to(torch.uint8) if labels.dtype == torch.bool else labels
    return labels[None] if labels.ndim == 2 else labels


def _size(labels: Tensor) -> str:
    return "x".join(map(str, labels.shape[1:] if labels.shape[0] == 1 else labels.shape))
