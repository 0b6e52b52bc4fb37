"""Boxes over a photograph: anchors, proposals, samples, how they move, and the small masks that are learned in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from masklet.structures.errors import UserError
from masklet.viz.contact import contact_sheet
from masklet.viz.overlay import Picture, as_picture
from masklet.viz.palettes import INK, PAPER, Color

SIDE = 640  # small pictures are enlarged to this before lines are drawn on them
DASH = 7
GREY: Color = (150, 156, 164)
# Okabe and Ito's colours, which colour-blind people can tell apart
COLORS: tuple[Color, ...] = (
    (0, 158, 115),
    (230, 159, 0),
    (86, 180, 233),
    (213, 94, 0),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
)
Boxes = Float[Tensor, "n 4"]


def color_of(number: int) -> Color:
    """The colour of object, class or level `number`; they repeat."""
    return COLORS[number % len(COLORS)]


def draw_boxes(
    image: Any, boxes: Boxes, colors: Color | Sequence[Color] = COLORS[0], width: int = 2, dashed: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph with a frame for each box, x0 y0 x1 y1 in its pixels; `colors` are one for all or one for each."""
    canvas = Image.fromarray(as_picture(image))
    each = _each(colors, len(boxes))
    draw = ImageDraw.Draw(canvas)
    for box, color in zip(boxes.tolist(), each, strict=True):
        _frame(draw, box, color, width, dashed)
    return np.array(canvas)


def draw_moves(
    image: Any, steps: Sequence[Boxes], colors: Color | Sequence[Color] = COLORS[0], width: int = 2
) -> UInt8[np.ndarray, "h w 3"]:
    """Boxes on their way: dashed where they began, solid where they end, and a line along the corners in between."""
    if len({len(boxes) for boxes in steps}) != 1:
        raise UserError("every step of a move needs the same boxes", hint="give one tensor of boxes for each step")
    each = _each(colors, len(steps[0]))
    out = draw_boxes(image, steps[0], each, max(1, width - 1), dashed=True)
    canvas = Image.fromarray(draw_boxes(out, steps[-1], each, width))
    draw = ImageDraw.Draw(canvas)
    for corner in ((0, 1), (2, 3)):
        for i, color in enumerate(each):
            draw.line([tuple(boxes[i, list(corner)].tolist()) for boxes in steps], fill=color, width=1)
    return np.array(canvas)


def draw_grids(pairs: Sequence[Sequence[Float[Tensor, "t t"]]], columns: int = 3) -> UInt8[np.ndarray, "h w 3"]:
    """Small masks side by side, white for 1 and black for 0; those of a pair stand next to each other."""
    if not pairs:
        raise UserError("there are no masks to draw")
    gap, zoom = 6, max(1, 112 // pairs[0][0].shape[-1])
    cells = [np.hstack([_grid(grid, zoom, 1) for grid in pair]) for pair in pairs]
    high, wide = cells[0].shape[0] + gap, cells[0].shape[1] + gap
    rows = -(-len(cells) // columns)
    out = np.full((rows * high + gap, columns * wide + gap, 3), PAPER, np.uint8)
    for i, cell in enumerate(cells):
        y, x = gap + i // columns * high, gap + i % columns * wide
        out[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
    return out


def training_sheet(image: Any, inside: Any, width: int = 1600, most: int = 60) -> UInt8[np.ndarray, "h w 3"]:
    """What a two-stage model does with a picture while it trains, in seven or eight panels.

    `inside` is what `inference.inside.look_inside` returns, `most` how many boxes of background a panel shows.
    """
    photo, zoom = enlarged(image)
    of_object = [color_of(i) for i in inside.objects.tolist()]
    truth = draw_boxes(photo, inside.truth * zoom, INK if photo.mean() > 127 else PAPER, 1)
    levels = [color_of(i) for i, boxes in enumerate(inside.anchors) for _ in boxes]
    learned = draw_boxes(photo, inside.negative[:most] * zoom, GREY, 1)
    sampled = draw_boxes(photo, inside.sampled[inside.labels < 0][:most] * zoom, GREY, 1, dashed=True)
    matched = inside.labels >= 0
    shown, times = _one_each(inside), len(inside.steps) - 1
    of = [color_of(i) for i in inside.of[shown].tolist()]
    panels = [
        (
            "1 anchors of one place",
            draw_boxes(photo, torch.cat(inside.anchors) * zoom, levels),
            f"{len(inside.anchors[0])} shapes, {len(inside.levels)} levels: {inside.levels[0]} to {inside.levels[-1]}",
        ),
        (
            "2 anchors to learn from",
            draw_boxes(learned, inside.positive * zoom, of_object),
            f"{len(inside.positive)} for objects, {len(inside.negative)} of background (grey)",
        ),
        (
            "3 where the first stage moves them",
            draw_moves(truth, [inside.positive * zoom, inside.refined * zoom], of_object),
            f"dashed: anchor, {'black' if photo.mean() > 127 else 'white'}: the object",
        ),
        (
            "4 likely boxes",
            draw_boxes(photo, inside.candidates * zoom, COLORS[1], 1),
            f"the {len(inside.candidates)} best, before suppression",
        ),
        (
            "5 proposals",
            draw_boxes(photo, inside.proposals * zoom, COLORS[2], 1),
            f"the {len(inside.proposals)} best after it",
        ),
        (
            "6 what the second stage learns from",
            draw_boxes(sampled, inside.sampled[matched] * zoom, [color_of(i) for i in inside.of.tolist()]),
            f"{int(matched.sum())} for objects, {int((~matched).sum())} of background (dashed)",
        ),
        (
            "7 where it moves them",
            draw_moves(truth, [boxes[shown] * zoom for boxes in inside.steps], of),
            f"the farthest box of each object, {times} time{'s' if times > 1 else ''}",
        ),
    ]
    if inside.masks is not None and inside.true_masks is not None and len(shown):
        pairs = [(inside.true_masks[i], inside.masks[i]) for i in shown.tolist()[:18]]
        panels.append(("8 masks in boxes", draw_grids(pairs), "left: true, right: as the model sees it"))
    sheets = []
    for row in (panels[:4], panels[4:]):
        headings, pictures, captions = zip(*row, strict=True)
        sheets.append(contact_sheet([[*pictures, None][:4]], headings, [captions], width=width))
    return np.concatenate(sheets)


def enlarged(image: Any) -> tuple[Picture, float]:
    """A photograph large enough for thin lines, and by how much it has grown."""
    picture = as_picture(image)
    zoom = max(1.0, SIDE / max(picture.shape[:2]))
    size = (round(picture.shape[1] * zoom), round(picture.shape[0] * zoom))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)), zoom


def _one_each(inside: Any) -> Tensor:
    """Of the sampled boxes of each object the one that is farthest off, so that a move can be seen."""
    apart = (inside.steps[0] - inside.truth[inside.of]).abs().sum(1)
    shown = [int(apart.where(inside.of == i, -1).argmax()) for i in inside.of.unique().tolist()]
    return torch.tensor(shown, dtype=torch.int64)


def _each(colors: Color | Sequence[Color], count: int) -> list[Color]:
    each = [colors] * count if colors and isinstance(colors[0], int) else list(colors)
    if len(each) != count:
        raise UserError(f"{len(each)} colours for {count} boxes", hint="give one colour, or one for each box")
    return each  # type: ignore[return-value]


def _frame(draw: ImageDraw.ImageDraw, box: Sequence[float], color: Color, width: int, dashed: bool) -> None:
    x0, y0, x1, y1 = box
    if x1 < x0 or y1 < y0:
        return
    if not dashed:
        draw.rectangle((x0, y0, x1, y1), outline=color, width=width)
        return
    for start, end in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x0, y1), (x1, y1)), ((x0, y0), (x0, y1))):
        for first, last in _dashes(start, end):
            draw.line([first, last], fill=color, width=width)


def _dashes(start: tuple[float, float], end: tuple[float, float]) -> Iterable[tuple[tuple[float, float], ...]]:
    long = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    steps = np.arange(0, max(long, 1e-6), 2 * DASH)
    place = lambda t: (start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t)  # noqa: E731
    return [(place(s / max(long, 1e-6)), place(min(1, (s + DASH) / max(long, 1e-6)))) for s in steps]


def _grid(grid: Float[Tensor, "t t"], zoom: int, border: int) -> Picture:
    bright = (grid.clamp(0, 1) * 255).round().byte().cpu().numpy()
    large = np.repeat(np.repeat(bright, zoom, 0), zoom, 1)
    return np.pad(np.repeat(large[..., None], 3, 2), ((border, border), (border, border), (0, 0)), constant_values=120)
