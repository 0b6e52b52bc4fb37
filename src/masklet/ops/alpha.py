"""What is compared of two alpha mattes: how steep they are, and how firmly pixels hang together with the object."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import binary_dilation, label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

LEVELS = 9  # the connectivity error looks at alpha >= .1, ..., .9, 1; who passes .9 is not .15 above it, 1 or not
THRESHOLDS = (np.arange(LEVELS + 1) / 10).astype(np.float32)
BAND, CHUNK = 32, 2**16  # rows and pixels at a time: temporary arrays stay in the cache
TILE = 32  # pixels; large enough for matrix products, small enough to leave out much of what is equal
TOGETHER = 256  # tiles filtered at once: about 8 MB


@cache
def gaussian_pair(
    sigma: float = 1.4, cutoff: float = 1e-2
) -> tuple[Float32[np.ndarray, " k"], Float32[np.ndarray, " k"]]:
    """The Gaussian and its derivative in one dimension; their outer product, of norm 1, is the filter of Grad.

    The filter ends where the Gaussian falls below `cutoff` (9 taps at sigma 1.4).
    """
    half = int(np.ceil(sigma * np.sqrt(-2 * np.log(np.sqrt(2 * np.pi) * sigma * cutoff))))
    x = np.arange(-half, half + 1) / sigma
    smooth = np.exp(-(x**2) / 2)
    slope = x * smooth
    return (smooth / np.linalg.norm(smooth)).astype(np.float32), (slope / np.linalg.norm(slope)).astype(np.float32)


def gradient_difference(
    a: Float32[np.ndarray, "h w"],
    b: Float32[np.ndarray, "h w"],
    region: Bool[np.ndarray, "h w"] | None = None,
    sigma: float = 1.4,
) -> float:
    """Sum of squared differences of the two gradient magnitudes (Rhemann et al. 2009, q = 2), edges replicated.

    Tiles around which a and b agree add nothing and are left out; the others take two matrix products each, since
    the filters are separable.
    """
    smooth, slope = gaussian_pair(sigma)
    half, (height, width) = len(smooth) // 2, a.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    counted = np.zeros((rows * TILE, columns * TILE), bool)
    counted[:height, :width] = True if region is None else region
    differ = np.zeros_like(counted)
    np.not_equal(a, b, out=differ[:height, :width])
    y, x = np.nonzero(_active(differ, half) & _any(_cells(counted), TILE // 8))
    beyond = ((half, rows * TILE - height + half), (half, columns * TILE - width + half))
    size = (TILE + 2 * half, TILE + 2 * half)
    windows = [sliding_window_view(np.pad(m, beyond, mode="edge"), size)[::TILE, ::TILE] for m in (a, b)]
    inside = counted.reshape(rows, TILE, columns, TILE).swapaxes(1, 2)
    down = np.concatenate([_toeplitz(smooth), _toeplitz(slope)])
    total = 0.0
    for start in range(0, len(y), TOGETHER):
        some = y[start : start + TOGETHER], x[start : start + TOGETHER]
        error = _steepness(windows[0][some], down)
        error -= _steepness(windows[1][some], down)
        error *= inside[some]
        total += float(np.vdot(error, error))
    return total


def _steepness(tiles: Float32[np.ndarray, "n s s"], down: Float32[np.ndarray, "u s"]) -> Float32[np.ndarray, "n t t"]:
    """Gradient magnitudes inside tiles that come with a margin of half a filter; `down` smooths and differentiates."""
    lines = down @ tiles
    dx, dy = lines[:, :TILE] @ down[TILE:].T, lines[:, TILE:] @ down[:TILE].T
    dx *= dx
    dy *= dy
    dx += dy
    return np.sqrt(dx, out=dx)


def _toeplitz(taps: Float32[np.ndarray, " k"]) -> Float32[np.ndarray, "t s"]:
    """The matrix that correlates a line of tile + 2 half pixels with the taps."""
    matrix = np.zeros((TILE, TILE + len(taps) - 1), np.float32)
    for i in range(TILE):
        matrix[i, i : i + len(taps)] = taps
    return matrix


def _active(differ: Bool[np.ndarray, "h w"], half: int) -> Bool[np.ndarray, "r c"]:
    """Tiles with a difference at most `half` pixels away (or a little farther)."""
    cells = binary_dilation(_cells(differ), np.ones((3, 3)), iterations=-(-half // 8))
    return _any(cells, TILE // 8)


def _cells(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "p q"]:
    """Which squares of 8 x 8 pixels hold anything; sides are multiples of 8."""
    eight = mask.view(np.uint64)  # a byte per pixel
    return np.bitwise_or.reduce(eight.reshape(-1, 8, eight.shape[1]), axis=1) != 0


def _any(cells: Bool[np.ndarray, "p q"], n: int) -> Bool[np.ndarray, "r c"]:
    return np.logical_or.reduce(cells.reshape(len(cells) // n, n, -1, n), axis=(1, 3))


def connectivity_difference(
    a: Float32[np.ndarray, "h w"], b: Float32[np.ndarray, "h w"], region: Bool[np.ndarray, "h w"] | None = None
) -> float:
    """Sum of differences in connectedness (Rhemann et al. 2009, p = 1, theta .15, steps of .1, 4-connected).

    A pixel is connected up to the last level before it first drops out of the largest component of {a >= level and
    b >= level}; what it has above that, if .15 or more, makes it loose. Where a = b nothing can differ.
    """
    differ = a != b
    if region is not None:
        differ &= region
    where = np.flatnonzero(differ)
    if not len(where):
        return 0.0
    lowest = np.empty(a.shape, np.uint8)
    for y in range(0, len(a), BAND):
        np.multiply(np.minimum(a[y : y + BAND], b[y : y + BAND]), 10, out=lowest[y : y + BAND], casting="unsafe")
    passed = passed_levels(np.minimum(lowest, LEVELS, out=lowest))
    flat, total = (a.ravel(), b.ravel()), 0.0
    for start in range(0, len(where), CHUNK):
        pixels = where[start : start + CHUNK]
        connected = THRESHOLDS[passed(pixels)]
        loose = [alpha[pixels] - connected for alpha in flat]
        for above in loose:
            above *= above >= np.float32(0.15)
        loose[0] -= loose[1]
        total += float(np.abs(loose[0], out=loose[0]).sum(dtype=np.float64))
    return total


def passed_levels(levels: UInt8[np.ndarray, "h w"]) -> Callable[[Int64[np.ndarray, " n"]], UInt8[np.ndarray, " n"]]:
    """How many levels 1 to 9 pixels pass before they first leave the largest component of {levels >= level}.

    The answer is a function of pixel numbers in reading order, as few of them are of interest. Of components of equal
    size the first in reading order counts as the largest.
    """
    starts = np.empty(levels.shape, bool)  # of runs of one level in a row
    starts[:, :1] = True
    np.not_equal(levels[:, 1:], levels[:, :-1], out=starts[:, 1:])
    rows, columns = np.flatnonzero(levels.any(1)), np.flatnonzero(levels.any(0))
    if not len(rows):
        return lambda pixels: np.zeros(len(pixels), np.uint8)
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    if np.count_nonzero(starts) > levels[box].size // 5:
        passed = _levels_of_pixels(levels, box).ravel()
        return lambda pixels: passed[pixels]
    runs: Int32[np.ndarray, " p"] = np.cumsum(starts, dtype=np.int32)
    runs -= 1
    passed = _levels_of_runs(levels, starts, runs)
    return lambda pixels: passed[runs[pixels]]


def _levels_of_pixels(levels: UInt8[np.ndarray, "h w"], box: tuple[slice, slice]) -> UInt8[np.ndarray, "h w"]:
    """By the definition: one labelling per level. For noise, where runs are as many as pixels."""
    out = np.zeros_like(levels)
    levels, passed = levels[box], out[box]
    alive = np.ones(levels.shape, bool)
    for level in range(1, LEVELS + 1):
        components, found = label(levels >= level)
        if not found:
            break
        alive &= components == 1 + np.bincount(components.ravel())[1:].argmax()
        if not alive.any():
            break
        passed += alive
    return out


def _levels_of_runs(
    levels: UInt8[np.ndarray, "h w"], starts: Bool[np.ndarray, "h w"], runs: Int32[np.ndarray, " p"]
) -> UInt8[np.ndarray, " r"]:
    """The levels that each run passes, from one graph: its nodes are the runs, its edges the runs that touch.

    From the highest level down every run and every edge is added once, and what has joined is one node from then on.
    """
    first = np.flatnonzero(starts)
    level = levels.ravel()[first]
    pixels = np.diff(first, append=levels.size)
    one, other = _touching(runs, starts, level)
    weight = np.minimum(level[one], level[other])
    order = np.argsort(weight, kind="stable")
    one, other = one[order], other[order]
    bounds = np.searchsorted(weight[order], np.arange(LEVELS + 2))
    owner = np.full(len(first), -1, np.int32)  # of each run, the component that it is part of
    sizes = np.zeros(0, np.int64)
    inside = []  # of each level, which runs are in the largest component
    for now in range(LEVELS, 0, -1):
        new = np.flatnonzero(level == now)
        owner[new] = np.arange(len(sizes), len(sizes) + len(new))
        sizes = np.concatenate([sizes, pixels[new]])
        if not len(sizes):
            inside.append(np.zeros(len(first), bool))
            continue
        edges = slice(bounds[now], bounds[now + 1])
        merged = _components(owner[one[edges]], owner[other[edges]], len(sizes))
        sizes = np.bincount(merged, weights=sizes).astype(np.int64)
        owner = np.append(merged, np.int32(-1))[owner]  # -1 stays -1
        best = np.flatnonzero(sizes == sizes.max())
        inside.append(owner == (best[0] if len(best) == 1 else owner[np.isin(owner, best).argmax()]))
    passed, alive = np.zeros(len(first), np.uint8), np.ones(len(first), bool)
    for largest in reversed(inside):
        alive &= largest
        passed += alive
    return passed


def _components(u: Int32[np.ndarray, " e"], v: Int32[np.ndarray, " e"], n: int) -> Int32[np.ndarray, " n"]:
    """Which component each of n nodes belongs to, counted from 0."""
    differ = u != v
    u, v = u[differ], v[differ]
    graph = coo_array((np.ones(len(u), np.float64), (u, v)), shape=(n, n))
    return connected_components(graph.tocsr(), directed=False)[1]


def _touching(
    runs: Int32[np.ndarray, " p"], starts: Bool[np.ndarray, "h w"], level: UInt8[np.ndarray, " r"]
) -> tuple[Int32[np.ndarray, " e"], Int32[np.ndarray, " e"]]:
    """Pairs of runs above level 0 that touch: one below the other, or side by side."""
    width = starts.shape[1]
    corner = np.flatnonzero(starts[1:] | starts[:-1])  # two rows meet anew where a run of either begins
    second = np.ones(len(level), bool)
    second[runs[::width]] = False  # the first run of a row has nothing on its left
    side = np.flatnonzero(second).astype(np.int32)
    one = np.concatenate([runs[corner], side - 1])
    other = np.concatenate([runs[corner + width], side])
    keep = np.minimum(level[one], level[other]) > 0
    return one[keep], other[keep]
