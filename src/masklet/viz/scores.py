"""Scores as one HTML page that needs nothing else: main numbers, the official summary, rows and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files as resources
from pathlib import Path
from string import Template

import numpy as np

from masklet.structures import Curve
from masklet.structures.files import replacing
from masklet.viz.curves import LINES

__all__ = ["chart", "save_score_page", "score_page"]

WIDTH, HEIGHT, LEFT, BOTTOM = 460, 320, 46, 36  # of a diagram and its margins, in pixels
IN_KEY = 24  # lines of a diagram that get a name; more than that nobody tells apart
Row = Mapping[str, float | int | str]


def save_score_page(
    path: Path,
    title: str,
    metrics: Mapping[str, float],
    summary: str = "",
    rows: Sequence[Row] = (),
    curves: Sequence[Curve] = (),
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Writes `score_page` at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_text(score_page(title, metrics, summary, rows, curves, facts), encoding="utf-8")
    return path


def score_page(
    title: str,
    metrics: Mapping[str, float],
    summary: str = "",
    rows: Sequence[Row] = (),
    curves: Sequence[Curve] = (),
    facts: Mapping[str, str] | None = None,
) -> str:
    """The whole page as text. Metrics with a `/` in their name are left to the rows."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.group, []).append(curve)
    charts = "".join(chart(name, lines) for name, lines in groups.items())
    return Template(resources(__package__).joinpath("scores.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        facts="".join(f"<span><b>{escape(k)}</b> {escape(v)}</span> " for k, v in (facts or {}).items()),
        numbers="".join(
            f"<div><b>{_number(v)}</b><span>{escape(k)}</span></div>" for k, v in metrics.items() if "/" not in k
        ),
        summary=f"<h2>Summary</h2><pre>{escape(summary)}</pre>" if summary else "",
        charts=f"<h2>Curves</h2><div class=charts>{charts}</div>" if charts else "",
        table=_table(rows) if rows else "",
    )


def _table(rows: Sequence[Row]) -> str:
    words = {key: isinstance(value, str) for key, value in rows[0].items()}
    head = "".join(f"<th{' class=word' if word else ''}>{escape(key)}</th>" for key, word in words.items())
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=word' if words[key] else ''}>{escape(_number(row.get(key, math.nan)))}</td>" for key in words
        )
        + "</tr>"
        for row in rows
    )
    return f"<h2>One by one</h2><div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def _number(value: float | int | str) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) else "–"
    return str(value)


def chart(name: str, curves: Sequence[Curve]) -> str:
    """One diagram with axes, grid and a key, drawn as SVG."""
    low_x, high_x = _range(np.concatenate([c.x[np.isfinite(c.y)] for c in curves]))
    low_y, high_y = _range(np.concatenate([c.y[np.isfinite(c.y)] for c in curves]))

    def place_x(x: float | np.ndarray) -> float | np.ndarray:
        return LEFT + (x - low_x) / (high_x - low_x) * (WIDTH - LEFT - 12)

    def place_y(y: float | np.ndarray) -> float | np.ndarray:
        return HEIGHT - BOTTOM - (y - low_y) / (high_y - low_y) * (HEIGHT - BOTTOM - 12)

    parts: list[str] = []
    for tick in np.linspace(low_y, high_y, 6):
        y = place_y(tick)
        parts.append(f'<line class=grid x1="{LEFT}" x2="{WIDTH - 12}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
    for tick in np.linspace(low_x, high_x, 6):
        x = place_x(tick)
        parts.append(f'<line class=grid x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:.3g}</text>')
    for i, curve in enumerate(curves):
        color = LINES[i % len(LINES)]
        for piece in _pieces(curve):
            points = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in piece)
            parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.6" points="{points}"/>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">'
                 f"{escape(curves[0].x_label)}</text>")  # fmt: skip
    parts.append(f'<text x="{LEFT}" y="8">{escape(curves[0].y_label)}</text>')
    key = "".join(
        f'<li><i style="background:{LINES[i % len(LINES)]}"></i>{escape(curve.name)}</li>'
        for i, curve in enumerate(curves[:IN_KEY])
    )
    if len(curves) > IN_KEY:
        key += f"<li>and {len(curves) - IN_KEY} more</li>"
    alt = escape(f"{name}: {', '.join(c.name for c in curves[:IN_KEY])}", quote=True)
    return (
        f"<figure><figcaption>{escape(name)}</figcaption>"
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{alt}">'
        f"{''.join(parts)}</svg><ul class=key>{key}</ul></figure>"
    )


def _pieces(curve: Curve) -> list[list[tuple[float, float]]]:
    """The points of a line, broken where it is not defined."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True):
        if math.isfinite(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _range(values: np.ndarray) -> tuple[float, float]:
    """The axis: 0 to 1 where everything fits in there, otherwise a little more than what is shown."""
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 0.05 < high <= 1:
        return 0.0, 1.0
    return (low, high) if high > low else (low - 0.5, low + 0.5)
