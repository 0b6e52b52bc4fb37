"""Outlines of many masks at once: where they run, which pixels come near another's, and what the masks share.

All masks of an image lie in one array, a bit each ("bit planes": bit k of a pixel says whether mask k covers it), so a
step over the image serves every mask, and small numbers of masks need one byte a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, UInt

__all__ = [
    "MAX_PLANES",
    "Meeting",
    "band",
    "band_width",
    "bit_planes",
    "content_box",
    "dilate",
    "meet",
    "outlines",
    "reach",
    "shared_pixels",
]

MAX_PLANES = 64


class Meeting(NamedTuple):
    """What every pair of masks has in common. `shared` is symmetric; `near` is not."""

    shared: Float64[np.ndarray, "n n"]  # pixels that masks i and j both cover; on the diagonal, areas
    near: Float64[np.ndarray, "n n"]  # outline pixels of i that the outline of j comes near; on the diagonal, all of i


def reach(height: int, width: int, fraction: int | float = 0.008) -> int:
    """How far apart two outlines may run and still match: a fraction of the image diagonal, in whole pixels upwards.

    The default is that of DAVIS (Perazzi et al., 2016). A fraction of 1 or more is a number of pixels.
    """
    return int(fraction) if fraction >= 1 else math.ceil(fraction * math.hypot(height, width))


def content_box(*maps: Integer[np.ndarray, "h w"] | Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """The smallest rows and columns around all that is not 0, and one pixel more on each side where there is one.

    The pixel more holds the outlines, which reach half a pixel outside the masks.
    """
    filled = maps[0] != 0
    for other in maps[1:]:
        filled |= other != 0
    out = []
    for axis, size in ((1, filled.shape[0]), (0, filled.shape[1])):
        there = np.flatnonzero(filled.any(axis))
        out.append(slice(max(int(there[0]) - 1, 0), min(int(there[-1]) + 2, size)) if len(there) else slice(0, 0))
    return out[0], out[1]


def bit_planes(
    maps: Sequence[Integer[np.ndarray, "h w"] | Bool[np.ndarray, "h w"]], ids: Sequence[Sequence[int]]
) -> UInt[np.ndarray, "h w"]:
    """Label maps as bit planes: one plane for each of `ids[0]` in the first map, then for `ids[1]` in the second, ...

    What is in no list belongs to no mask. At most 64 planes.
    """
    count = sum(map(len, ids))
    if count > MAX_PLANES:
        raise ValueError(f"{count} masks do not fit {MAX_PLANES} bits; compare them in parts")
    size = next(size for size in (1, 2, 4, 8) if count <= 8 * size)
    planes = np.zeros(maps[0].shape, f"<u{size}")
    octets = planes.view(np.uint8).reshape(*planes.shape, size)
    sources = [(labels, number) for labels, wanted in zip(maps, ids, strict=True) for number in wanted]
    for octet in range(0, count, 8):  # bytes are compared and multiplied many at a time, wider numbers are not
        eight = np.zeros(planes.shape, np.uint8)
        for bit, (labels, number) in enumerate(sources[octet : octet + 8]):
            eight |= (labels == number).view(np.uint8) * np.uint8(1 << bit)
        octets[..., octet // 8] = eight
    return planes


def outlines(planes: UInt[np.ndarray, "h w"]) -> UInt[np.ndarray, "h w"]:
    """The outline of each mask: pixels that differ from their right, lower or lower right neighbour.

    It runs one pixel wide, half inside, half outside, as in `seg2bmap` of the Berkeley benchmark (Martin et al., 2003).
    The edge of the image is no outline.
    """
    out = np.zeros_like(planes)
    np.bitwise_xor(planes[:, 1:], planes[:, :-1], out=out[:, :-1])
    out[:-1] |= planes[1:] ^ planes[:-1]
    out[:-1, :-1] |= planes[1:, 1:] ^ planes[:-1, :-1]
    return out


def dilate(planes: UInt[np.ndarray, "h w"], radius: int) -> UInt[np.ndarray, "h w"]:
    """Every mask grown by the disk x² + y² <= radius², exactly; what would leave the image is cut.

    A disk is a stack of rows, so the picture is smeared sideways row width by row width, and each smear moved up and
    down to the rows that have this width: 3 radius steps over the image where the disk has 3 radius² pixels.
    """
    height, width = planes.shape
    stride = width + radius  # rows end in empty pixels: a shift of the flat array then cannot reach the next row
    smeared = np.zeros((height, stride), planes.dtype)
    smeared[:, :width] = planes
    smeared = smeared.ravel()
    grown, half = np.zeros_like(smeared), 0
    for dy in range(radius, -1, -1):
        wanted = math.isqrt(radius * radius - dy * dy)
        while half < wanted:
            step = min(wanted - half, 2 * half + 1)  # further, and there would be gaps
            wider = smeared.copy()
            wider[step:] |= smeared[:-step]
            wider[:-step] |= smeared[step:]
            smeared, half = wider, half + step
        offset = dy * stride
        if offset == 0:
            grown |= smeared
        elif dy < height:
            grown[offset:] |= smeared[:-offset]
            grown[:-offset] |= smeared[offset:]
    return grown.reshape(height, stride)[:, :width]


def shared_pixels(planes: UInt[np.ndarray, "h w"], count: int) -> Float64[np.ndarray, "n n"]:
    """How many pixels each pair of the first `count` planes has in common; on the diagonal, areas."""
    flat = planes.ravel()
    if not len(flat):
        return np.zeros((count, count))
    starts = np.flatnonzero(flat[1:] != flat[:-1])  # masks are runs: only where they change is there anything to count
    starts = np.concatenate(([0], starts + 1))
    return _pairs(flat[starts], flat[starts], np.diff(starts, append=len(flat)), count)


def meet(planes: UInt[np.ndarray, "h w"], count: int, radius: int) -> Meeting:
    """Shared pixels and matching outlines of all pairs among the first `count` planes.

    Two outlines match at a pixel of one where the other has a pixel within `radius` (Euclidean). Give the planes of
    the `content_box` only: the rest of the image adds nothing but time.
    """
    shared = shared_pixels(planes, count)
    edges = outlines(planes)
    here = np.flatnonzero(edges.ravel() != 0)
    if not len(here):
        return Meeting(shared, np.zeros((count, count)))
    around = dilate(edges, radius)
    rows, columns = np.divmod(here, planes.shape[1])
    return Meeting(shared, _pairs(edges.ravel()[here], around[rows, columns], None, count))


def band_width(height: int, width: int, fraction: int | float = 0.02) -> int:
    """How many pixels deep a boundary reaches into its mask: a fraction of the image diagonal, at least 1.

    The default is that of Boundary IoU (Cheng et al., 2021, sec. 5).
    """
    return max(1, round(fraction * math.hypot(height, width)))


def band(planes: UInt[np.ndarray, "h w"], width: int) -> UInt[np.ndarray, "h w"]:
    """The part of each mask at most `width` king's steps from its background; beyond the image all is background."""
    inside = np.pad(planes, width)
    for axis in (0, 1):
        inside = np.moveaxis(inside, axis, 0)
        size = 1  # of the window over which `inside` is already the common part
        while size < 2 * width + 1:
            step = min(size, 2 * width + 1 - size)
            inside = inside[step:] & inside[:-step]
            size += step
        inside = np.moveaxis(inside, 0, axis)
    return planes & ~inside


def _pairs(
    first: UInt[np.ndarray, " n"], second: UInt[np.ndarray, " n"], weights: Int64[np.ndarray, " n"] | None, count: int
) -> Float64[np.ndarray, "k k"]:
    """How often (with `weights`: how heavily) bit i of the first and bit j of the second are set together."""
    if first.itemsize == 1:  # few different pairs: count those first
        totals = np.bincount(first.astype(np.uint16) << 8 | second, weights)
        codes = np.flatnonzero(totals)
        first, second, weights = (codes >> 8).astype(np.uint8), (codes & 255).astype(np.uint8), totals[codes]
    left = _bits(first, count)
    return (left if weights is None else left * weights[:, None]).T @ _bits(second, count)


def _bits(values: UInt[np.ndarray, " n"], count: int) -> Float64[np.ndarray, "n k"]:
    """The first `count` bits of each value as 0 and 1."""
    octets = values.view(np.uint8).reshape(len(values), -1)  # planes are little-endian: the first bits come first
    return np.unpackbits(octets, axis=1, count=count, bitorder="little").astype(np.float64)
