"""Matting errors and clicks at 1080p against the same formulas written out.

python benchmarks/matting.py [--threads N] [--rounds N] [--only grad|conn|click]

The plain Grad is the full 9 x 9 convolution (by torch, the faster of the two that are timed, and by scipy), the plain
Conn one labelling and one count per threshold, the plain click two distance transforms of the whole padded frame.
"""

from __future__ import annotations

from timing import compare, threads  # first: it sets how OpenMP waits

# isort: split
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from masklet.ops.alpha import connectivity_difference, gradient_difference
from masklet.ops.clicks import Click, next_click

SIZE = (1080, 1920)


def mattes() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """A large object with a wavy, hairy edge, predicted nearly right: in 8 bits, with noise everywhere, and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    radius = np.hypot((y - 600) / 480, (x - 960) / 380)
    waves = ndimage.gaussian_filter(rng.standard_normal(SIZE, np.float32), 6)
    waves /= waves.std()
    hair = rng.standard_normal(SIZE, np.float32)
    near = abs(1 - radius) < 0.1
    truth = np.clip(8 * (1 - radius) + 0.4 * waves + 0.3 * hair * near, 0, 1)
    pred = np.clip(7 * (1 - radius) + 0.45 * waves + 0.3 * hair * near + 0.05, 0, 1)
    truth, pred = (np.rint(255 * m).astype(np.float32) / 255 for m in (truth, pred))
    yield "object with hair, 8 bits", pred, truth
    yield "the same with noise everywhere", np.clip(pred + 0.001 * hair, 0, 1), truth
    yield "nothing but noise", rng.random(SIZE, np.float32), rng.random(SIZE, np.float32)


def kernel() -> np.ndarray:
    """The 9 x 9 filter of Grad."""
    x = np.arange(-4, 5)
    smooth = np.exp(-(x**2) / (2 * 1.4**2))
    across = np.outer(smooth, x * smooth)
    return (across / np.linalg.norm(across)).astype(np.float32)


def plain_grad(a: np.ndarray, b: np.ndarray) -> float:
    """Both filters over both mattes, by scipy."""
    across = kernel()
    steep = [
        np.sqrt(ndimage.correlate(m, across, mode="nearest") ** 2 + ndimage.correlate(m, across.T, mode="nearest") ** 2)
        for m in (a, b)
    ]
    return float(((steep[0] - steep[1]) ** 2).sum(dtype=np.float64))


def torch_grad(a: np.ndarray, b: np.ndarray) -> float:
    """Both filters over both mattes, by torch."""
    filters = torch.from_numpy(np.stack([kernel(), kernel().T]))[:, None]
    both = torch.from_numpy(np.stack([a, b]))[:, None]
    steep = F.conv2d(F.pad(both, (4, 4, 4, 4), mode="replicate"), filters).square().sum(1).sqrt()
    return float((steep[0] - steep[1]).square().sum(dtype=torch.float64))


def plain_conn(a: np.ndarray, b: np.ndarray) -> float:
    """One labelling per threshold."""
    connected = np.full(a.shape, -1, np.float32)
    for i in range(1, 11):
        labels, found = ndimage.label((a >= np.float32(i / 10)) & (b >= np.float32(i / 10)))
        largest = labels == 1 + np.bincount(labels.ravel())[1:].argmax() if found else np.zeros(a.shape, bool)
        connected[(connected == -1) & ~largest] = (i - 1) / 10
    connected[connected == -1] = 1
    above = [m - connected for m in (a, b)]
    phi = [1 - d * (d >= np.float32(0.15)) for d in above]
    return float(np.abs(phi[0] - phi[1]).sum(dtype=np.float64))


def plain_click(pred: np.ndarray, truth: np.ndarray) -> Click:
    """Two transforms of the padded frame."""
    deep = [ndimage.distance_transform_edt(np.pad(m, 1))[1:-1, 1:-1] for m in (truth & ~pred, pred & ~truth)]
    positive = bool(deep[0].max() > deep[1].max())
    y, x = np.unravel_index(deep[not positive].argmax(), SIZE)
    return Click(int(x), int(y), positive)


def near(ours: float, theirs: float) -> bool:
    """Equal to float32 rounding."""
    return abs(ours - theirs) <= 1e-4 * abs(theirs)


def error_cases(only: str, rounds: int) -> None:
    facts = {"rounds": rounds, "shapes": "1080x1920", "dtype": "float32", "same": near}
    for name, pred, truth in mattes():
        if only in "grad":
            compare(
                f"grad, {name}",
                lambda a=pred, b=truth: gradient_difference(a, b),
                {
                    "9x9 convolution, torch": lambda a=pred, b=truth: torch_grad(a, b),
                    "9x9 convolution, scipy": lambda a=pred, b=truth: plain_grad(a, b),
                },
                target=0.5,
                **facts,
            )
        if only in "conn":
            compare(
                f"conn, {name}",
                lambda a=pred, b=truth: connectivity_difference(a, b),
                {"labelling per threshold": lambda a=pred, b=truth: plain_conn(a, b)},
                target=0.3,
                **facts,
            )


def click_cases(rounds: int) -> None:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    truth = ((y - 500) / 180) ** 2 + ((x - 900) / 150) ** 2 < 1 + 0.2 * np.sin(6 * np.arctan2(y - 500, x - 900))
    rng = np.random.default_rng(0)
    preds = {
        "first": np.zeros(SIZE, bool),
        "shifted mask": np.roll(truth, (25, -30), (0, 1)),
        "scattered errors": truth ^ (ndimage.gaussian_filter(rng.standard_normal(SIZE), 4) > 0.12),
    }
    for name, pred in preds.items():
        compare(
            f"next click, {name}",
            lambda pred=pred: next_click(pred, truth),
            {"two distance transforms": lambda pred=pred: plain_click(pred, truth)},
            same=lambda a, b: a == b,
            rounds=rounds,
            shapes="1080x1920, object 360x300",
            dtype="bool",
        )


if __name__ == "__main__":
    options = threads()
    if options.only in "grad" or options.only in "conn":
        error_cases(options.only, options.rounds)
    if options.only in "click":
        click_cases(options.rounds)
