"""Masks of a video as DAVIS stores them: a palette PNG for each frame, its pixels the numbers of objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from masklet.ops.rle import RLE, decode
from masklet.structures.errors import UserError
from masklet.structures.files import replacing

MOST = 254  # 0 is background and 255 void


def davis_palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of PASCAL VOC, which DAVIS took over: bits of the number, dealt out to red, green and blue."""
    number = np.arange(256)
    colors = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
    return colors.astype(np.uint8)


def davis_ids(masks: Mapping[int, RLE], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """The number of the object at every pixel; where several are, the smallest number."""
    ids = np.zeros(size, np.uint8)
    for number in sorted(masks, reverse=True):
        if not 1 <= number <= MOST:
            raise UserError(f"object {number} has no place in a DAVIS file", hint=f"number objects from 1 to {MOST}")
        ids[decode(masks[number])] = number
    return ids


def write_davis_png(path: str | Path, masks: Mapping[int, RLE], size: tuple[int, int]) -> None:
    """Saves the objects of one frame of `size` (height, width) by number."""
    image = Image.fromarray(davis_ids(masks, size))
    image.putpalette(davis_palette().tobytes())
    with replacing(path) as unfinished:
        image.save(unfinished, "PNG")
