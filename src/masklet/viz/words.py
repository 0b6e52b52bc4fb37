"""Words on pictures: name tags, legends and text, in the font that comes with Pillow."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from masklet.viz.palettes import INK, PAPER, Color, ink_on

GREY: Color = (96, 104, 114)
SMOOTH = 4  # shapes are drawn this many times larger and shrunk, for Pillow draws hard edges


@lru_cache(maxsize=256)
def font(size: int, text: str = "") -> Any:
    """The font for a text at a size in pixels: Pillow's own, which knows ASCII, else one that the system has."""
    if not text.isascii():
        for name in ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf"):
            try:
                return ImageFont.truetype(name, round(0.92 * size))  # these draw larger than Pillow's
            except OSError:
                continue
    return ImageFont.load_default(size)


def writable(text: str) -> str:
    """The text in letters that its font has: without a font for them, accents fall and the rest becomes "?"."""
    if text.isascii() or font(12, text).getname() != font(12).getname():
        return text
    plain = unicodedata.normalize("NFKD", text)
    return "".join(c for c in plain if not unicodedata.combining(c)).encode("ascii", "replace").decode()


def text_size(text: str, size: int) -> tuple[int, int]:
    """Width of a text, and the height of its line, which is the same for all texts."""
    return round(font(size, text).getlength(writable(text))), round(1.25 * size)


def write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, color: Color, anchor: str) -> None:
    """Draws the text; `anchor` says which point of it is at `place`, as in Pillow ("lm": left, middle)."""
    draw.text(place, writable(text), color, font(size, text), anchor=anchor)


def rounded(width: int, height: int, radius: float, color: Color) -> Image.Image:
    """A filled rectangle with round corners and smooth edges, RGBA."""
    mask = Image.new("L", (width * SMOOTH, height * SMOOTH))
    box = (0, 0, width * SMOOTH - 1, height * SMOOTH - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius * SMOOTH, fill=255)
    shape = Image.new("RGBA", (width, height), (*color, 0))
    shape.putalpha(mask.resize((width, height), Image.Resampling.BOX))
    return shape


def tag(text: str, color: Color, size: int) -> Image.Image:
    """A name on a pill of its colour, RGBA."""
    wide, high = text_size(text, size)
    pill = rounded(wide + round(1.1 * size), high + round(0.3 * size), 0.5 * size, color)
    write(ImageDraw.Draw(pill), (pill.width // 2, pill.height // 2), text, size, ink_on(color), "mm")
    return pill


def clipped(text: str, size: int, width: int) -> str:
    """The text, or as much of its beginning as fits in `width` pixels, with three dots."""
    if text_size(text, size)[0] <= width:
        return text
    while text and text_size(text + "...", size)[0] > width:
        text = text[:-1]
    return text + "..."


def legend(
    entries: Sequence[tuple[str, Color, float | None]], width: int, size: int = 15
) -> UInt8[np.ndarray, "h w 3"]:
    """A swatch, a name and a share (None: no share) for each entry, in rows that fill `width`."""
    square, gap = round(1.05 * size), round(1.6 * size)
    chips = []
    for name, color, share in entries:
        number = "" if share is None else percent(share)
        name = clipped(name, size, max(width - 2 * gap - square - size - text_size(number, size)[0], size))
        chips.append((name, color, number, square + size // 2 + text_size(name, size)[0]
                      + (size // 3 + text_size(number, size)[0] if number else 0)))  # fmt: skip
    rows: list[list[Any]] = [[]]
    left = gap // 2
    for chip in chips:
        if rows[-1] and left + chip[3] > width - gap // 2:
            rows.append([])
            left = gap // 2
        rows[-1].append((left, chip))
        left += chip[3] + gap
    line = round(1.75 * size)
    canvas = Image.new("RGB", (width, line * len(rows) + round(0.7 * size)), PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, row in enumerate(rows):
        middle = round(0.35 * size) + line * i + line // 2
        for x, (name, color, number, _) in row:
            swatch = rounded(square, square, 0.25 * size, color)
            canvas.paste(swatch, (x, middle - square // 2), swatch)
            x += square + size // 2
            write(draw, (x, middle), name, size, INK, "lm")
            write(draw, (x + text_size(name, size)[0] + size // 3, middle), number, size, GREY, "lm")
    return np.array(canvas)


def percent(share: float) -> str:
    """`12 %`, `3.4 %`, `< 0.1 %`."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"
