"""How far predicted depth is from true depth: the measures of Eigen et al. (NeurIPS 2014) and of the KITTI benchmark.

With d a predicted and d* a true depth, over the n pixels whose true depth is known:

    absrel        mean |d - d*| / d*                     (Eigen)
    sqrel         mean (d - d*)² / d*                    (Eigen; in metres)
    sqrel_kitti   mean ((d - d*) / d*)²                  (KITTI's and deeplab2's squared relative error)
    rmse          sqrt(mean (d - d*)²)                   (metres)
    rmse_log      sqrt(mean (ln d - ln d*)²)
    silog         100 sqrt(mean e² - (mean e)²), e = ln d - ln d*      (KITTI: scale invariant, times 100)
    delta1..3     share of pixels with max(d/d*, d*/d) < 1.25, 1.25², 1.25³
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from masklet.structures.errors import UserError

__all__ = ["DepthScore"]

_TERMS = ("absrel", "sqrel", "sqrel_kitti", "square", "log_square", "log", "delta1", "delta2", "delta3")
KEYS = ("absrel", "sqrel", "sqrel_kitti", "rmse", "rmse_log", "silog", "delta1", "delta2", "delta3")


@dataclass
class DepthScore:
    """Means of depth errors, from sums over pixels.

    mode="image" (Eigen's evaluation, deeplab2): every image has its scores, and a score is the mean over images.
    mode="dataset": pixels of all images are added up first.

    A true depth counts where it is above `min_depth` and at most `max_depth`; predictions are clamped to that range.
    The usual evaluation on KITTI is DepthScore(1e-3, 80).
    """

    min_depth: float = 0.0
    max_depth: float = math.inf
    mode: str = "image"
    sums: Float64[np.ndarray, " n"] = field(init=False, repr=False)
    count: int = field(init=False, default=0)  # of images, or of pixels
    images: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.mode not in ("dataset", "image"):
            raise UserError(f"mode is {self.mode!r}", hint="choose 'dataset' or 'image'")
        if not 0 <= self.min_depth < self.max_depth:
            raise UserError(
                f"depths from {self.min_depth:g} to {self.max_depth:g} are no range", hint="start at 0 or above"
            )
        self.sums = np.zeros(len(_TERMS) if self.mode == "dataset" else len(KEYS))

    def update(self, pred: Tensor, truth: Tensor) -> None:
        """Adds one image: depths (H, W) in one unit, 0 where the truth knows none. All unknown, it has no score."""
        called, true = check_depths(pred, truth)
        known = (true > self.min_depth) & (true <= self.max_depth)
        called, true = called[known], true[known]
        if self.min_depth > 0:
            called = np.maximum(called, self.min_depth)
        called = np.minimum(called, self.max_depth)
        if len(called) and not float(called.min()) > 0:  # NaN too
            worst = float(called.min())
            hint = "give positive depths, or clamp with min_depth=1e-3"
            raise UserError(f"the prediction is {worst:g} where the true depth is known", hint=hint)
        self.images += 1
        if not len(true):
            return
        error, log, ratio = called - true, np.log(called) - np.log(true), np.maximum(called / true, true / called)
        terms = [np.abs(error) / true, error**2 / true, (error / true) ** 2, error**2, log**2, log]
        sums = np.array([float(t.sum()) for t in (*terms, *(ratio < 1.25**n for n in (1, 2, 3)))])
        self.sums += sums if self.mode == "dataset" else _scores(sums / len(true))
        self.count += len(true) if self.mode == "dataset" else 1

    def merge(self, other: DepthScore) -> None:
        """Adds the sums of other images; the order does not matter."""
        mine, theirs = ((s.min_depth, s.max_depth, s.mode) for s in (self, other))
        if mine != theirs:
            raise UserError(f"cannot merge scores of different settings: {mine} and {theirs}")
        self.sums = self.sums + other.sums
        self.count += other.count
        self.images += other.images

    def compute(self) -> dict[str, float]:
        """The nine scores; NaN where no true depth was known."""
        if not self.count:
            return dict.fromkeys(KEYS, math.nan)
        means = self.sums / self.count
        return dict(zip(KEYS, (_scores(means) if self.mode == "dataset" else means).tolist(), strict=True))

    def summary(self) -> str:
        """One line of names and one of numbers, as evaluation scripts of depth print them."""
        found = self.compute()
        return " ".join(f"{k:>11s}" for k in KEYS) + "\n" + " ".join(f"{found[k]:11.4f}" for k in KEYS)


def _scores(means: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " k"]:
    """The scores from means of the terms over pixels."""
    absrel, sqrel, kitti, square, log_square, log = means[:6].tolist()
    spread = max(log_square - log**2, 0.0)
    return np.array([absrel, sqrel, kitti, square**0.5, log_square**0.5, 100 * spread**0.5, *means[6:]])


def check_depths(
    pred: Tensor, truth: Tensor, size: tuple[int, int] | None = None
) -> tuple[Float64[np.ndarray, "h w"], Float64[np.ndarray, "h w"]]:
    """Two depth maps as float64 arrays; refuses other shapes, and sizes that differ from each other or from `size`."""
    maps = {"predicted depth": pred, "true depth": truth}
    for what, depth in maps.items():
        if depth.ndim != 2:
            raise UserError(f"the {what} has shape {tuple(depth.shape)}", hint="expected (H, W)")
    wanted, of = (tuple(truth.shape), "the true depth") if size is None else (size, "the panoptic map")
    for what, depth in maps.items():
        if tuple(depth.shape) != wanted:
            sizes = "x".join(map(str, depth.shape)), "x".join(map(str, wanted))
            raise UserError(f"the {what} is {sizes[0]} but {of} is {sizes[1]}", hint="resize the depth")
    called, true = (depth.detach().cpu().double().numpy() for depth in maps.values())
    return called, true
