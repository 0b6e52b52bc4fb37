"""Contact sheets: pictures in a grid with captions, headings and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from masklet.structures import Classes
from masklet.structures.errors import UserError
from masklet.viz.overlay import Layer, as_picture
from masklet.viz.palettes import INK, PAPER, bare
from masklet.viz.words import GREY, clipped, legend, write


def contact_sheet(
    rows: Sequence[Sequence[Any]],
    headings: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    key: Layer | Classes | None = None,
    width: int = 1600,
    title: str = "",
) -> UInt8[np.ndarray, "h w 3"]:
    """A grid of pictures, each row as high as its pictures need; `None` leaves a cell empty.

    `headings` stand over the columns, `captions` under the pictures, and `key` becomes a legend at the bottom.
    """
    columns = max(map(len, rows), default=0)
    if not columns:
        raise UserError("a contact sheet needs at least one picture")
    for what, given in (("headings", [headings]), ("captions", captions)):
        if any(len(row) > columns for row in given):
            raise UserError(f"there are more {what} than the {columns} columns of pictures")
    gap, size = max(6, width // 130), max(11, width // 85)
    cell = (width - gap * (columns + 1)) // columns
    parts: list[Image.Image] = []
    if title:
        parts.append(_texts([title], width - 2 * gap, gap, round(1.5 * size), width, INK))
    if headings:
        parts.append(_texts(headings, cell, gap, size, width, INK))
    for i, row in enumerate(rows):
        parts.append(_pictures(row, cell, gap, width))
        if i < len(captions) and any(captions[i]):
            parts.append(_texts(captions[i], cell, gap, round(0.85 * size), width, GREY))
    if key is not None:
        parts.append(Image.fromarray(legend(_entries(key), width, size)))
    sheet = Image.new("RGB", (width, gap + sum(p.height for p in parts)), PAPER)
    y = gap
    for part in parts:
        sheet.paste(part, (0, y))
        y += part.height
    return np.array(sheet)


def with_legend(picture: Any, key: Layer | Classes, size: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with a strip of names and colours under it."""
    picture = as_picture(picture)
    size = size or max(12, picture.shape[1] // 60)
    return np.concatenate([picture, legend(_entries(key), picture.shape[1], size)])


def _entries(key: Layer | Classes) -> list[tuple[str, tuple[int, int, int], float | None]]:
    if isinstance(key, Classes):
        skip = bare(key)
        return [(n, c, None) for i, (n, c) in enumerate(zip(key.names, key.colors, strict=True)) if i not in skip]
    return [(name, color, share) for _, name, color, share in key.present()]


def _pictures(row: Sequence[Any], cell: int, gap: int, width: int) -> Image.Image:
    fitted = []
    for picture in row:
        image = None if picture is None else Image.fromarray(as_picture(picture))
        if image is not None:
            high = min(max(1, round(image.height * cell / image.width)), 2 * cell)
            wide = min(cell, max(1, round(image.width * high / image.height)))
            enlarged = wide > 2 * image.width
            image = image.resize((wide, high), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)
        fitted.append(image)
    strip = Image.new("RGB", (width, max((i.height for i in fitted if i is not None), default=0) + gap), PAPER)
    for column, image in enumerate(fitted):
        if image is not None:
            strip.paste(image, (gap + column * (cell + gap) + (cell - image.width) // 2, 0))
    return strip


def _texts(
    texts: Sequence[str], cell: int, gap: int, size: int, width: int, color: tuple[int, int, int]
) -> Image.Image:
    strip = Image.new("RGB", (width, round(1.9 * size)), PAPER)
    draw = ImageDraw.Draw(strip)
    for column, text in enumerate(texts):
        place = (gap + column * (cell + gap), round(0.75 * size))
        write(draw, place, clipped(text, size, cell), size, color, "lm")
    return strip
