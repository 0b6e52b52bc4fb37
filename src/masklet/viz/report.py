"""One HTML page about many pictures that needs nothing else: no server, no network, no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from masklet.structures import Classes
from masklet.viz.overlay import Layer, as_picture, layer_of, outline
from masklet.viz.palettes import Color, hexadecimal
from masklet.viz.words import percent


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


def page(
    cards: Sequence[Card], title: str = "masklet", facts: Mapping[str, str] | None = None, about: str = ""
) -> str:
    """The whole page as text. `facts` stand under the title: model, number of pictures, seconds."""
    totals: dict[tuple[str, Color], float] = {}
    for one in cards:
        for name, color, share in one.shares:
            totals[name, color] = totals.get((name, color), 0.0) + share / len(cards)
    ranked = sorted(((n, c, s) for (n, c), s in totals.items()), key=lambda row: -row[2])
    common = ranked if len(ranked) <= 40 else []
    header = "".join(f"<span><b>{escape(k)}</b> {escape(v)}</span>" for k, v in (facts or {}).items())
    return _PAGE.format(
        title=escape(title),
        style=_STYLE,
        header=header,
        about=f"<p class=about>{escape(about)}</p>" if about else "",
        legend=_bars(common, "On average") if len(cards) > 1 and common else "",
        cards="".join(map(_figure, cards)) or "<p class=about>No pictures.</p>",
        script=_SCRIPT,
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
    return f'<div class=shares>{title}<div class=bar aria-hidden=true>{parts}</div><ul>{names}</ul></div>'


def _jpeg(photo: Image.Image) -> bytes:
    out = io.BytesIO()
    photo.save(out, "JPEG", quality=86, optimize=True)
    return out.getvalue()


def _paint(codes: Any, layer: Layer) -> bytes:
    """An index PNG of the codes: outlines full, areas half transparent."""
    used = np.flatnonzero(np.bincount(codes.reshape(-1), minlength=256)[1:]) + 1
    if len(used) > 127:  # two palette entries each do not fit: areas only
        table, index, strengths = layer.colors, codes, np.where(np.arange(256) > 0, 140, 0)
    else:
        table, lut = np.zeros((256, 3), np.uint8), np.zeros(256, np.uint8)
        lut[used] = 2 * np.arange(len(used)) + 1
        table[lut[used]] = table[lut[used] + 1] = layer.colors[used]
        index = lut[codes]
        if min(codes.shape) > 1:
            index = index + outline(np.ascontiguousarray(codes), max(1, round(max(codes.shape) / 640)))
        strengths = np.array([0] + [140, 255] * 127 + [0])
    picture = Image.fromarray(index.astype(np.uint8))
    picture.putpalette(table.tobytes())
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True, transparency=strengths.astype(np.uint8).tobytes())
    return out.getvalue()


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><meta name="generator" content="masklet"><style>{style}</style></head>
<body><header><h1>{title}</h1><div class=facts>{header}</div>
<form><label>Paint <input type=range id=strength min=0 max=100 value=100></label>
<label>Size <input type=range id=size min=220 max=1200 value=440></label>
<button type=button id=theme>Dark / light</button></form></header>
<main>{about}{legend}<section>{cards}</section></main>
<footer>Hold the pointer on a picture to see the photograph alone; click to enlarge. Made by masklet; works offline.</footer>
<script>{script}</script></body></html>
"""

_STYLE = """
:root{--paper:#fbfbfa;--card:#fff;--ink:#1a1e24;--soft:#69717c;--line:#e4e6e9;--accent:#0072b2;--paint:1;--wide:440px;color-scheme:light}
@media(prefers-color-scheme:dark){:root:not([data-theme=light]){--paper:#14171b;--card:#1c2026;--ink:#e9ebee;--soft:#98a1ac;
--line:#2d333b;--accent:#56b4e9;color-scheme:dark}}
:root[data-theme=dark]{--paper:#14171b;--card:#1c2026;--ink:#e9ebee;--soft:#98a1ac;--line:#2d333b;--accent:#56b4e9;color-scheme:dark}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header{position:sticky;top:0;z-index:2;display:flex;flex-wrap:wrap;gap:.4rem 1.6rem;align-items:center;padding:.8rem max(1.2rem,3vw);
background:color-mix(in srgb,var(--paper) 88%,transparent);backdrop-filter:blur(10px);border-bottom:1px solid var(--line)}
h1{margin:0;font-size:1.25rem;letter-spacing:-.01em}h2{margin:0 0 .6rem;font-size:.95rem}
.facts{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;color:var(--soft);font-size:.88rem}.facts b{font-weight:500;color:var(--ink)}
form{display:flex;gap:1.1rem;margin-left:auto;align-items:center;color:var(--soft);font-size:.85rem}
label{display:flex;gap:.5rem;align-items:center}input{width:7.5rem;accent-color:var(--accent)}
button{font:inherit;color:inherit;background:none;border:1px solid var(--line);border-radius:.5rem;padding:.2rem .7rem;cursor:pointer}
main{padding:1.4rem max(1.2rem,3vw) 2rem}.about{max-width:62ch;margin:.2rem 0 1.4rem;color:var(--soft)}
main>.shares{max-width:60rem;margin-bottom:1.6rem;padding:1rem 1.1rem;background:var(--card);border:1px solid var(--line);border-radius:.8rem}
section{columns:var(--wide);column-gap:1.3rem}
figure{margin:0 0 1.3rem;break-inside:avoid;background:var(--card);border:1px solid var(--line);border-radius:.8rem;overflow:hidden}
.frame{position:relative;width:100%;cursor:zoom-in;background:var(--line)}.frame img{position:absolute;inset:0;width:100%;height:100%;object-fit:contain}
.paint{opacity:var(--paint);transition:opacity .12s}.frame:hover .paint,.frame:focus-visible .paint{opacity:0}
.frame.full{position:fixed;inset:0;z-index:9;aspect-ratio:auto!important;background:#000e;cursor:zoom-out}
.frame.full:hover .paint{opacity:var(--paint)}
figcaption{display:grid;gap:.15rem;padding:.8rem 1rem 1rem}strong{font-weight:600;overflow-wrap:anywhere}small{color:var(--soft);font-size:.82rem}
.bar{display:flex;height:.5rem;margin:.45rem 0 .6rem;border-radius:.3rem;overflow:hidden;background:var(--line)}.bar i{display:block}
ul{display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin:0;padding:0;list-style:none;font-size:.88rem}
li{display:flex;align-items:center;gap:.4rem}li i{width:.8rem;height:.8rem;border-radius:.22rem;box-shadow:inset 0 0 0 1px #0002}
li span{color:var(--soft);font-variant-numeric:tabular-nums}
footer{padding:1rem max(1.2rem,3vw) 2rem;color:var(--soft);font-size:.82rem}
@media print{header{position:static}form,footer{display:none}figure{break-inside:avoid}}
"""

_SCRIPT = """
const root=document.documentElement,get=id=>document.getElementById(id);
get("strength").oninput=e=>root.style.setProperty("--paint",e.target.value/100);
get("size").oninput=e=>root.style.setProperty("--wide",e.target.value+"px");
get("theme").onclick=()=>{const dark=root.dataset.theme?root.dataset.theme=="dark":matchMedia("(prefers-color-scheme:dark)").matches;
root.dataset.theme=dark?"light":"dark"};
const shut=()=>document.querySelectorAll(".full").forEach(f=>f.classList.remove("full"));
document.querySelectorAll(".frame").forEach(f=>{f.onclick=()=>{const open=f.classList.contains("full");shut();f.classList.toggle("full",!open)};
f.onkeydown=e=>{if(e.key=="Enter")f.click()}});
onkeydown=e=>{if(e.key=="Escape")shut()};
"""
