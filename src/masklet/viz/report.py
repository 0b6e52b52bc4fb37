"""One HTML page about many pictures that needs nothing else: no server, no network, no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files as resources
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from masklet.structures import Classes
from masklet.viz.overlay import Layer, as_picture, layer_of, outline, outline_width
from masklet.viz.palettes import Color, hexadecimal
from masklet.viz.words import percent

AREA = 118  # of 255: how strong the paint is within an outline


@dataclass(frozen=True)
class Card:
    """One picture of the page, already shrunk and compressed: a few ten kilobytes, whatever came in."""

    name: str
    size: tuple[int, int]
    photo: bytes  # JPEG
    paint: bytes  # PNG, transparent where nothing is painted
    shares: tuple[tuple[str, Color, float], ...]  # of the classes or objects in it, largest first
    notes: Mapping[str, str] = field(default_factory=dict)


def card(
    name: str,
    image: Any,
    result: Any,
    notes: Mapping[str, str] | None = None,
    side: int = 960,
    classes: Classes | None = None,
) -> Card:
    """A picture and its result for `page`; `side` is the longest side that is kept."""
    picture, layer = as_picture(image), layer_of(result, classes)
    shares = tuple((entry, color, share) for _, entry, color, share in layer.present())
    photo = Image.fromarray(picture)
    if max(photo.size) > side:
        photo.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
    small = Image.fromarray(layer.codes).resize(photo.size, Image.Resampling.NEAREST)
    return Card(name, picture.shape[:2], _jpeg(photo), _paint(np.asarray(small), layer), shares, dict(notes or {}))


def page(cards: Sequence[Card], title: str = "masklet", facts: Mapping[str, str] | None = None, about: str = "") -> str:
    """The whole page as text. `facts` stand under the title: model, number of pictures, seconds."""
    totals: dict[tuple[str, Color], float] = {}
    for one in cards:
        for name, color, share in one.shares:
            totals[name, color] = totals.get((name, color), 0.0) + share / len(cards)
    ranked = sorted(((n, c, s) for (n, c), s in totals.items()), key=lambda row: -row[2])
    common = ranked if len(ranked) <= 40 else []
    header = "".join(f"<span><b>{escape(k)}</b> {escape(v)}</span>" for k, v in (facts or {}).items())
    return Template(resources(__package__).joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        header=header,
        about=f"<p class=about>{escape(about)}</p>" if about else "",
        legend=_bars(common, "On average") if len(cards) > 1 and common else "",
        cards="".join(map(_figure, cards)) or "<p class=about>No pictures.</p>",
    )


def _figure(one: Card) -> str:
    height, width = one.size
    notes = " · ".join(escape(f"{k} {v}") for k, v in ({"": f"{width} × {height}"} | dict(one.notes)).items())
    alt = "{}: {}".format(one.name, ", ".join(f"{n} {percent(s)}" for n, _, s in one.shares[:12]) or "nothing found")
    return (
        f'<figure><div class=frame tabindex=0 style="aspect-ratio:{width}/{height}">'
        f'<img src="{_inline(one.photo, "jpeg")}" alt="{escape(alt, quote=True)}">'
        f'<img class=paint src="{_inline(one.paint, "png")}" alt=""></div>'
        f"<figcaption><strong>{escape(one.name)}</strong><small>{notes.strip()}</small>{_bars(one.shares[:40])}"
        "</figcaption></figure>"
    )


def _bars(rows: Sequence[tuple[str, Color, float]], heading: str = "") -> str:
    """One bar of all shares, and a swatch, name and number for each."""
    parts = "".join(f'<i style="width:{100 * s:.2f}%;background:{hexadecimal(c)}"></i>' for _, c, s in rows)
    names = "".join(
        f'<li><i style="background:{hexadecimal(c)}"></i>{escape(n)} <span>{percent(s)}</span></li>' for n, c, s in rows
    )
    title = f"<h2>{heading}</h2>" if heading else ""
    return f"<div class=shares>{title}<div class=bar aria-hidden=true>{parts}</div><ul>{names}</ul></div>"


def _jpeg(photo: Image.Image) -> bytes:
    out = io.BytesIO()
    photo.save(out, "JPEG", quality=86, optimize=True)
    return out.getvalue()


def _paint(codes: Any, layer: Layer) -> bytes:
    """An index PNG of the codes: outlines full, areas half transparent."""
    used = np.flatnonzero(np.bincount(codes.reshape(-1), minlength=256)[1:]) + 1
    if len(used) > 127:  # two palette entries each do not fit: areas only
        table, index, strengths = layer.colors, codes, np.where(np.arange(256) > 0, AREA, 0)
    else:
        table, lut = np.zeros((256, 3), np.uint8), np.zeros(256, np.uint8)
        lut[used] = 2 * np.arange(len(used)) + 1
        table[lut[used]] = table[lut[used] + 1] = layer.colors[used]
        index = lut[codes]
        if width := outline_width(codes):
            index = index + outline(codes, width)
        strengths = np.array([0] + [AREA, 255] * 127 + [0])
    picture = Image.fromarray(index.astype(np.uint8))
    picture.putpalette(table.tobytes())
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True, transparency=strengths.astype(np.uint8).tobytes())
    return out.getvalue()


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
