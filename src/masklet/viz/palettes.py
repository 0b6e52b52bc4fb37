"""Colours as tables: which colour a label gets, which labels stay bare, which ink reads well on a colour."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from masklet.structures import Classes

Color = tuple[int, int, int]

PAPER: Color = (255, 255, 255)
INK: Color = (24, 28, 34)
BARE = frozenset({"background", "void", "unlabeled", "unlabelled", "other"})


def color_table(classes: Classes) -> UInt8[np.ndarray, "256 3"]:
    """Row i is the colour of label i; the rows after the last class are black."""
    table = np.zeros((256, 3), np.uint8)
    colors = np.asarray(classes.colors, np.uint8).reshape(-1, 3)[:256]
    table[: len(colors)] = colors
    return table


def bare(classes: Classes) -> frozenset[int]:
    """Labels that an overlay leaves unpainted: the ignored one, and classes that are black or named as background."""
    empty = (i for i, (n, c) in enumerate(zip(classes.names, classes.colors, strict=True)) if n in BARE or not any(c))
    return frozenset({classes.ignore, *empty})


def luminance(color: Color) -> float:
    """How bright a colour looks, 0 to 1 (WCAG relative luminance)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink_on(color: Color) -> Color:
    """Black or white, whichever has more contrast with `color`."""
    return INK if luminance(color) > 0.18 else PAPER


def hexadecimal(color: Color) -> str:
    """`#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*color)
