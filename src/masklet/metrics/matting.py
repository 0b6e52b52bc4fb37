"""How close an alpha matte is to the truth, still or moving, on the scale of whoever is to be compared with.

With α the prediction, α* the truth and the sums over the pixels that count (all, or the unknown ones of a trimap):

    mad      mean |α - α*|                                          (RVM; Lin et al. 2022)
    sad      Σ |α - α*|                                             (Rhemann et al. 2009)
    mse      mean (α - α*)²                                         (Rhemann et al. 2009)
    grad     Σ (|∇α| - |∇α*|)², Gaussian derivatives of σ 1.4        (Rhemann et al. 2009)
    conn     Σ |φ(α) - φ(α*)|, φ the connectedness to the object    (Rhemann et al. 2009; θ .15, steps of .1)
    dtssd    √ Σ ((α_t - α_t-1) - (α*_t - α*_t-1))²                 (Erofeev et al. 2015)
    messddt  Σ |(α_t-1 - α*_t-1)²(p) - (α_t - α*_t)²(p + v_p)|      (Erofeev et al. 2015; v is the optical flow)
    fgr_mse  mean (F - F*)² where α* > 0                            (RVM)

What these are divided or multiplied by differs from paper to paper by powers of ten: that is a `Scale`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from masklet.ops.alpha import connectivity_difference, gradient_difference
from masklet.structures import Curve, Matte, UserError

__all__ = ["BMV2", "PAPER", "RVM_HR", "RVM_LR", "SCALES", "MattingScore", "Mean", "RootMean", "RootSum", "Scale", "Sum"]

Alpha = Float32[np.ndarray, "h w"]


@dataclass(frozen=True)
class Sum:
    """`factor` times the sum over the pixels."""

    factor: float = 1.0

    def __call__(self, total: float, count: int) -> float:
        """The value of one frame."""
        return self.factor * total


@dataclass(frozen=True)
class Mean:
    """`factor` times the mean over the pixels; NaN where there are none."""

    factor: float = 1.0

    def __call__(self, total: float, count: int) -> float:
        """The value of one frame."""
        return self.factor * total / count if count else math.nan


@dataclass(frozen=True)
class RootSum:
    """`factor` times the square root of the sum over the pixels."""

    factor: float = 1.0

    def __call__(self, total: float, count: int) -> float:
        """The value of one frame."""
        return self.factor * math.sqrt(total)


@dataclass(frozen=True)
class RootMean:
    """`factor` times the square root of the mean over the pixels; NaN where there are none."""

    factor: float = 1.0

    def __call__(self, total: float, count: int) -> float:
        """The value of one frame."""
        return self.factor * math.sqrt(total / count) if count else math.nan


Reduce = Callable[[float, int], float]


def unchanged(alpha: Alpha) -> Alpha:
    """The matte as it is."""
    return alpha


def stretched(alpha: Alpha) -> Alpha:
    """The matte from its own lowest to its highest value, as mat2gray and cv2.normalize do; a flat one becomes 0."""
    low, high = alpha.min(), alpha.max()
    if (low, high) == (0, 1):
        return alpha
    return (alpha - low) / (high - low) if high > low else np.zeros_like(alpha)


@dataclass(frozen=True)
class Scale:
    """How one publication turns the errors of a frame into numbers; None where it has no such number.

    `before_grad` prepares mattes for Grad, `first_dtssd` is what the first frame of a video adds to the mean of
    dtSSD (nothing: None), `unknown_only` asks for trimaps, `multiple` crops the right and the bottom of a frame to a
    multiple of so many pixels, `line` is what the official tool prints.
    """

    name: str
    mad: Reduce | None = Mean(1e3)
    sad: Reduce | None = Sum(1e-3)
    mse: Reduce | None = Mean()
    grad: Reduce | None = Sum(1e-3)
    conn: Reduce | None = Sum(1e-3)
    dtssd: Reduce | None = RootSum()
    messddt: Reduce | None = Sum()
    fgr_mse: Reduce | None = Mean()
    before_grad: Callable[[Alpha], Alpha] = stretched
    first_dtssd: float | None = None
    unknown_only: bool = False
    multiple: int = 1
    line: str = ""


PAPER = Scale("paper")  # Xu et al. 2017 (Deep Image Matting): sums in thousands; video as in Erofeev et al. 2015
RVM_LR = Scale(  # RobustVideoMatting's evaluation at 512 x 288; messddt in the manner of its mse
    "rvm_lr",
    mse=Mean(1e3),
    dtssd=RootMean(1e2),
    messddt=Mean(1e3),
    fgr_mse=Mean(1e3),
    first_dtssd=0.0,
)
RVM_HR = Scale(  # the same at 1920 x 1080: no connectivity, and mattes are not stretched
    "rvm_hr",
    mse=Mean(1e3),
    conn=None,
    dtssd=RootMean(1e2),
    messddt=Mean(1e3),
    fgr_mse=Mean(1e3),
    before_grad=unchanged,
    first_dtssd=0.0,
)
BMV2 = Scale(  # the MATLAB scripts of BackgroundMattingV2: unknown pixels of stills, grad and conn not in thousands
    "bmv2",
    mad=None,
    grad=Sum(),
    conn=Sum(),
    dtssd=None,
    messddt=None,
    fgr_mse=None,  # theirs divides the error where alpha > 0 by all unknown pixels
    unknown_only=True,
    multiple=4,
    line="mse:{mse:.6f},sad:{sad:.3f},grad:{grad:.0f},conn:{conn:.0f}",
)
SCALES = MappingProxyType({scale.name: scale for scale in (RVM_LR, RVM_HR, BMV2, PAPER)})
KEYS = ("mad", "sad", "mse", "grad", "conn", "dtssd", "messddt", "fgr_mse")


@dataclass
class Clip:
    """What is kept of a video or a still: sums and counts over its frames, one of each per key."""

    name: str = ""
    frames: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * len(KEYS))
    counts: list[int] = field(default_factory=lambda: [0] * len(KEYS))

    def add(self, key: str, value: float) -> None:
        """One frame's value; NaN (nothing to score) does not count."""
        if not math.isnan(value):
            self.sums[KEYS.index(key)] += value
            self.counts[KEYS.index(key)] += 1

    def means(self) -> dict[str, float]:
        """The mean over frames of every key that has a value."""
        return {k: s / n for k, s, n in zip(KEYS, self.sums, self.counts, strict=True) if n}


@dataclass(frozen=True)
class Frame:
    """What the next frame of a video needs of this one."""

    pred: Alpha
    truth: Alpha
    region: Bool[np.ndarray, "h w"] | None


@dataclass
class MattingScore:
    """Errors of alpha mattes: the mean over the frames of each video, then the mean over videos and stills.

    `scale` is a `Scale` or the name of one: "rvm_lr" and "rvm_hr" equal RobustVideoMatting's evaluate_lr.py and
    evaluate_hr.py, "bmv2" the MATLAB scripts of BackgroundMattingV2, "paper" the tables of Deep Image Matting (stills)
    and of videomatting.com (videos). With a trimap only its unknown pixels count, on every scale.

    Kept are eight sums and counts per video or still, and the last frame of the last video.
    """

    scale: Scale | str = RVM_LR
    clips: list[Clip] = field(init=False, default_factory=list, repr=False)
    images: int = field(init=False, default=0)
    _last: Frame | None = field(init=False, default=None, repr=False)
    _video: str | None = field(init=False, default=None, repr=False)
    _names: set[str] = field(init=False, default_factory=set, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.scale, str):
            if self.scale not in SCALES:
                raise UserError(f"there is no scale {self.scale!r}", hint=f"choose {', '.join(SCALES)}")
            self.scale = SCALES[self.scale]

    def update(
        self,
        pred: Matte | Tensor | np.ndarray,
        truth: Matte | Tensor | np.ndarray,
        trimap: Tensor | np.ndarray | None = None,
        *,
        name: str = "",
        video: str | None = None,
        flow: Tensor | np.ndarray | None = None,
    ) -> None:
        """Adds a pair of mattes of one size: a still called `name`, or the next frame of `video`.

        Mattes are float in [0, 1], uint8 or uint16, (H, W) or (1, H, W), or `Matte`, which may know the foreground's
        colours. Trimaps hold 0 (background), 128 (unknown) and 255 (foreground). `flow` (2, H, W) says by how many
        pixels x y a point of the previous frame of the video has moved; without it there is no messddt.
        """
        alpha, true = _alpha(pred, "the prediction"), _alpha(truth, "the truth")
        _same_size(alpha, "the prediction", true)
        region = None if trimap is None else _unknown(trimap, true)
        assert isinstance(self.scale, Scale)
        if region is None and self.scale.unknown_only:
            raise UserError(
                f"scale {self.scale.name} scores unknown pixels only, but there is no trimap",
                hint="give trimaps, or choose another scale",
            )
        motion = None if flow is None else _flow(flow, true)
        colours = _foregrounds(pred, truth)
        height, width = (side // self.scale.multiple * self.scale.multiple for side in true.shape)
        alpha, true = alpha[:height, :width], true[:height, :width]
        region = None if region is None else region[:height, :width]
        before = self._last if video is not None and video == self._video else None
        if before is None and motion is not None:
            raise UserError("there is flow but no previous frame", hint="give flow from the second frame of a video on")
        if before is not None and before.truth.shape != true.shape:
            old, new = ("x".join(map(str, matte.shape)) for matte in (before.truth, true))
            raise UserError(f"video {video!r} changes from {old} to {new}", hint="resize its frames")
        clip = self.clips[-1] if before is not None else self._new_clip(name, video)
        self._score(clip, alpha, true, region)
        if colours is not None and self.scale.fgr_mse is not None:
            clip.add("fgr_mse", self.scale.fgr_mse(*_colour_error(*colours, true, region)))
        frame = Frame(alpha, true, region)
        if before is not None:
            self._score_change(clip, before, frame, motion)
        clip.frames += 1
        self.images += 1
        self._last, self._video = (None, None) if video is None else (frame, video)

    def merge(self, other: MattingScore) -> None:
        """Adds the videos and stills of another part of the data; a video must be in one part only."""
        if self.scale != other.scale:
            mine, theirs = (getattr(s.scale, "name", s.scale) for s in (self, other))
            raise UserError(f"cannot merge scores of different scales: {mine} and {theirs}")
        if both := sorted(self._names & other._names - {""}):
            raise UserError(f"{both[0]!r} is in both parts", hint="split data between videos, not inside them")
        self.clips += [Clip(c.name, c.frames, [*c.sums], [*c.counts]) for c in other.clips]
        self._names |= other._names
        self.images += other.images
        self._last = self._video = None

    def compute(self) -> dict[str, float]:
        """The keys of the scale that have a value: dtssd and messddt need videos, fgr_mse needs colours."""
        means = [clip.means() for clip in self.clips]
        columns = {key: [m[key] for m in means if key in m] for key in KEYS}
        return {key: math.fsum(values) / len(values) for key, values in columns.items() if values}

    def summary(self) -> str:
        """The line of the official tool, or one line per key."""
        assert isinstance(self.scale, Scale)
        found = self.compute()
        if self.scale.line and found:
            return self.scale.line.format(**found)
        count = f"{len(self.clips)} {'video or still' if len(self.clips) == 1 else 'videos and stills'}"
        lines = [f"{self.scale.name}: {count}, {self.images} frame{'s' * (self.images != 1)}"]
        return "\n".join([*lines, *(f"{key:<8} {value:10.4f}" for key, value in found.items())])

    def table(self) -> list[dict[str, float | int | str]]:
        """One row per video or still, in order of their names; NaN where it has no value."""
        present = self.compute()
        rows: list[dict[str, float | int | str]] = []
        for i, clip in enumerate(sorted(self.clips, key=lambda c: c.name)):
            means = clip.means()
            rows.append(
                {"name": clip.name or str(i), "frames": clip.frames, **{k: means.get(k, math.nan) for k in present}}
            )
        return rows

    def curves(self) -> list[Curve]:
        """The errors of all videos and stills in order of size, per key."""
        out = []
        for key in self.compute():
            values = np.sort([m[key] for m in (clip.means() for clip in self.clips) if key in m])
            if len(values) > 1:
                share = np.arange(1, len(values) + 1) / len(values)
                out.append(Curve(key, values, share, key, "share of videos and stills at most", group=key))
        return out

    def _new_clip(self, name: str, video: str | None) -> Clip:
        """A row for another still or video."""
        known = name if video is None else video
        if known and known in self._names:
            if video is None:
                raise UserError(f"{known!r} came twice", hint="give every still its own name")
            raise UserError(
                f"video {known!r} came back after something else", hint="give all frames of a video one after another"
            )
        self._names.add(known)
        self.clips.append(Clip(known))
        return self.clips[-1]

    def _score(self, clip: Clip, pred: Alpha, truth: Alpha, region: Bool[np.ndarray, "h w"] | None) -> None:
        """One frame by itself."""
        scale = self.scale
        assert isinstance(scale, Scale)
        error = pred - truth if region is None else pred[region] - truth[region]
        count = error.size
        if scale.mse is not None:
            clip.add("mse", scale.mse(_sum(np.square(error)), count))
        absolute = _sum(np.abs(error, out=error))
        if scale.mad is not None:
            clip.add("mad", scale.mad(absolute, count))
        if scale.sad is not None:
            clip.add("sad", scale.sad(absolute, count))
        if scale.grad is not None:
            ready, right = scale.before_grad(pred), scale.before_grad(truth)
            clip.add("grad", scale.grad(gradient_difference(ready, right, region), count))
        if scale.conn is not None:
            clip.add("conn", scale.conn(connectivity_difference(pred, truth, region), count))

    def _score_change(self, clip: Clip, before: Frame, now: Frame, flow: np.ndarray | None) -> None:
        """One frame against the one before; what counts is the region of the one before."""
        scale = self.scale
        assert isinstance(scale, Scale)
        region = np.s_[:] if before.region is None else before.region
        if scale.dtssd is not None:
            change = ((now.pred - before.pred) - (now.truth - before.truth))[region]
            if scale.first_dtssd is not None and clip.frames == 1:
                clip.add("dtssd", scale.first_dtssd)
            clip.add("dtssd", scale.dtssd(_sum(np.square(change)), change.size))
        if scale.messddt is not None and flow is not None:
            errors = [np.square(frame.pred - frame.truth) for frame in (before, now)]
            clip.add("messddt", scale.messddt(*_moved(errors[0], errors[1], flow, before.region)))


def _moved(
    before: Alpha, now: Alpha, flow: Float32[np.ndarray, "2 h w"], region: Bool[np.ndarray, "h w"] | None
) -> tuple[float, int]:
    """Sum of |before(p) - now(p + v_p)| and its number of pixels; targets are the nearest pixel, inside the frame."""
    height, width = before.shape
    here: Float32[np.ndarray, "2 h w"] = np.indices(before.shape, dtype=np.float32)[::-1]
    x, y = np.rint(here + flow[:, :height, :width])
    counts = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # neither does NaN
    if region is not None:
        counts &= region
    there = now[y[counts].astype(np.int64), x[counts].astype(np.int64)]
    return _sum(np.abs(before[counts] - there)), int(np.count_nonzero(counts))


def _colour_error(
    pred: Float32[np.ndarray, "3 h w"],
    truth: Float32[np.ndarray, "3 h w"],
    alpha: Alpha,
    region: Bool[np.ndarray, "h w"] | None,
) -> tuple[float, int]:
    """Sum of squared differences over the colours where the true alpha is above 0, and their number."""
    counts = alpha > 0 if region is None else (alpha > 0) & region
    height, width = alpha.shape
    error = pred[:, :height, :width][:, counts] - truth[:, :height, :width][:, counts]
    return _sum(np.square(error)), error.size


def _sum(values: np.ndarray) -> float:
    return float(values.sum(dtype=np.float64))


def _alpha(matte: Matte | Tensor | np.ndarray, role: str) -> Alpha:
    """A (H, W) float32 array in [0, 1] from what a caller has."""
    values = matte.alpha if isinstance(matte, Matte) else matte
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim == 3 and len(array) == 1:
        array = array[0]
    if array.ndim != 2 or not array.size:
        raise UserError(f"{role} has shape {tuple(array.shape)}", hint="expected one matte, (H, W) or (1, H, W)")
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.iinfo(array.dtype).max
    if array.dtype != np.bool_ and array.dtype.kind != "f":
        raise UserError(f"{role} holds {array.dtype}", hint="give float in [0, 1], uint8 or uint16")
    array = np.ascontiguousarray(array, np.float32)
    if not (array.min() >= 0 and array.max() <= 1):  # also catches NaN
        raise UserError(
            f"{role} has values from {array.min():g} to {array.max():g}, alpha is in 0..1",
            hint="divide 8-bit alpha by 255, or give it as uint8",
        )
    return array


def _unknown(trimap: Tensor | np.ndarray, truth: Alpha) -> Bool[np.ndarray, "h w"]:
    """The unknown pixels of a trimap."""
    array = trimap.detach().cpu().numpy() if isinstance(trimap, Tensor) else np.asarray(trimap)
    array = array[0] if array.ndim == 3 and len(array) == 1 else array
    _same_size(array, "the trimap", truth)
    unknown = array == 128
    if not (unknown | (array == 0) | (array == 255)).all():
        wrong = array[~(unknown | (array == 0) | (array == 255))][0]
        raise UserError(
            f"the trimap holds {wrong}", hint="its values are 0 (background), 128 (unknown) and 255 (foreground)"
        )
    return unknown


def _flow(flow: Tensor | np.ndarray, truth: Alpha) -> Float32[np.ndarray, "2 h w"]:
    array = flow.detach().cpu().numpy() if isinstance(flow, Tensor) else np.asarray(flow)
    if array.shape != (2, *truth.shape):
        h, w = truth.shape
        raise UserError(f"flow has shape {tuple(array.shape)}", hint=f"expected (2, {h}, {w}): x and y for each pixel")
    return array.astype(np.float32)


def _foregrounds(
    pred: Matte | Tensor | np.ndarray, truth: Matte | Tensor | np.ndarray
) -> tuple[Float32[np.ndarray, "3 h w"], Float32[np.ndarray, "3 h w"]] | None:
    """The foreground's colours, predicted and true, where both mattes have them."""
    found = [m.foreground for m in (pred, truth) if isinstance(m, Matte) and m.foreground is not None]
    if len(found) < 2:
        return None
    first, second = (f.detach().to("cpu", torch.float32).numpy() for f in found)
    return first, second


def _same_size(array: np.ndarray, role: str, truth: Alpha) -> None:
    if array.shape != truth.shape:
        size, (height, width) = "x".join(map(str, array.shape)), truth.shape
        raise UserError(f"{role} is {size} but the truth is {height}x{width}", hint="resize it to the truth")
