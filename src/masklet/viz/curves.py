"""Training histories, curves, confusion matrices and scores per class as pictures, with matplotlib (extra `report`).

Each function returns the picture, and writes it where a `path` is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from masklet.structures import Classes, Curve
from masklet.structures.errors import UserError
from masklet.structures.files import replacing
from masklet.viz.palettes import hexadecimal

Picture = UInt8[np.ndarray, "h w 3"]
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#1b1f24")  # Okabe and Ito
GREY = "#5b636d"
PALE = MappingProxyType({"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8})  # under a number
MOST_NAMES = 12  # lines of a panel that a legend still tells apart


def loss_curves(
    history: Sequence[Mapping[str, Any]], path: Path | None = None, x: str = "epoch", title: str = ""
) -> Picture:
    """Losses on the left, scores in [0, 1] on the right, from one record per epoch.

    Every number whose name contains "loss" is a loss; the others are drawn where they stay within [0, 1] and are
    not one of many per class ("iou/road"). The best value of each score is marked.
    """
    if not history:
        raise UserError("the history is empty", hint="train at least one epoch")
    series = {k: _series(history, x, k) for k in dict.fromkeys(k for record in history for k in record) if k != x}
    losses = {k: v for k, v in series.items() if "loss" in k and len(v[1])}
    scores = {k: v for k, v in series.items() if k not in losses and "/" not in k and len(v[1]) and _is_score(k, v[1])}
    panels = [(name, s) for name, s in (("loss", losses), ("score", scores)) if s]
    if not panels:
        raise UserError(f"the history has no numbers to draw among {', '.join(series) or 'no columns'}")
    figure, axes = _figure(5.4 * len(panels), 3.9, len(panels), title)
    for (name, curves), ax in zip(panels, axes, strict=True):
        for (label, (xs, ys)), color in zip(curves.items(), LINES * len(curves), strict=False):
            ax.plot(xs, ys, color=color, lw=1.8, marker="o" if len(xs) < 12 else None, ms=3.5, label=label)
            if name == "score":
                best = int(np.argmax(ys))
                ax.plot(xs[best], ys[best], "o", color=color, ms=6, mec="white", mew=1.2, zorder=5)
                ax.annotate(f"{ys[best]:.3f}", (xs[best], ys[best]), (0, 7), textcoords="offset points", ha="center",
                            fontsize=8.5, color=color, fontweight="bold", bbox=PALE)  # fmt: skip
        ax.set(xlabel=x, ylabel=name)
        if name == "loss":
            ax.set_ylim(bottom=0)
        ax.margins(x=0.04, y=0.14)  # above its own curve a label of the best value crosses nothing of it
        ax.legend(frameon=False, fontsize=9)
    return _drawn(figure, path)


def curve_picture(curves: Sequence[Curve], path: Path | None = None, title: str = "") -> Picture:
    """What a metric draws (precision over recall, J over time): one panel per group of curves."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.group, []).append(curve)
    if not groups:
        raise UserError("there are no curves to draw", hint="score something first")
    figure, axes = _figure(5.4 * len(groups), 3.9, len(groups), title)
    for (name, lines), ax in zip(groups.items(), axes, strict=True):
        for line, color in zip(lines, LINES * len(lines), strict=False):
            ax.plot(line.x, line.y, color=color, lw=1.8, label=line.name)
        ax.set(xlabel=lines[0].x_label, ylabel=lines[0].y_label)
        ax.set_title(name, fontsize=10, color=GREY)
        if all(((y := line.y[np.isfinite(line.y)]) >= 0).all() and (y <= 1).all() for line in lines):
            ax.set_ylim(0, 1.04)
        if len(lines) <= MOST_NAMES:
            ax.legend(frameon=False, fontsize=9)
    return _drawn(figure, path)


def confusion_picture(
    table: Any, classes: Classes | Sequence[str], path: Path | None = None, title: str = ""
) -> Picture:
    """Where each true class (row) went, in percent of its pixels; classes without pixels are left out."""
    counts = np.asarray(table, np.float64)
    names = _names(classes)
    if counts.shape != (len(names), len(names)):
        raise UserError(f"the table is {'x'.join(map(str, counts.shape))} but there are {len(names)} classes")
    seen = np.flatnonzero(counts.sum(0) + counts.sum(1))
    counts, names = counts[np.ix_(seen, seen)], [names[i] for i in seen]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(3.2, 0.52 * len(names) + 1.6)
    figure, (ax,) = _figure(side + 0.6, side, 1, title)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="predicted", ylabel="true")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(share):
        if value >= 0.005:
            ax.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=8.5,
                    color="white" if value > 0.55 else "#1b1f24", fontweight="bold" if i == j else None)  # fmt: skip
    return _drawn(figure, path)


def score_bars(
    scores: Mapping[str, float], classes: Classes, path: Path | None = None, title: str = "", kind: str = "iou"
) -> Picture:
    """One bar per class in the colour of the class, from the `iou/<class>` entries that a metric gives."""
    rows = [(n, c, scores[f"{kind}/{n}"]) for n, c in zip(classes.names, classes.colors, strict=True)
            if not math.isnan(scores.get(f"{kind}/{n}", math.nan))]  # fmt: skip
    if not rows:
        raise UserError(f"no {kind}/<class> among the scores", hint=f"there are: {', '.join(scores)}")
    rows.sort(key=lambda row: row[2])
    figure, (ax,) = _figure(6.4, 0.34 * len(rows) + 1.1, 1, title)
    ax.barh([n for n, _, _ in rows], [s for *_, s in rows], height=0.68,
            color=[hexadecimal(c) for _, c, _ in rows], edgecolor="#00000030", lw=0.8)  # fmt: skip
    for i, (*_, score) in enumerate(rows):
        ax.text(score + 0.012, i, f"{score:.3f}", va="center", fontsize=9)
    ax.set_xlim(0, 1.09)
    ax.set_xlabel({"iou": "IoU", "dice": "Dice"}.get(kind, kind))
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    return _drawn(figure, path)


def _series(history: Sequence[Mapping[str, Any]], x: str, key: str) -> tuple[list[float], list[float]]:
    """The finite numbers of one column and where they stand."""
    rows = [(r.get(x, i + 1), r.get(key)) for i, r in enumerate(history)]
    kept = [(float(a), float(b)) for a, b in rows if isinstance(b, int | float) and math.isfinite(b)]
    return [a for a, _ in kept], [b for _, b in kept]


def _is_score(name: str, values: Sequence[float]) -> bool:
    return name not in ("lr", "seconds", "step", "momentum") and min(values) >= 0 and max(values) <= 1


def _names(classes: Classes | Sequence[str]) -> list[str]:
    return list(classes.names if isinstance(classes, Classes) else classes)


def paired_points(
    rows: Mapping[str, Mapping[str, Sequence[float]]], path: Path | None = None, title: str = ""
) -> Picture:
    """What a change is worth: for each score a panel, in it the variants side by side, a line for each repetition.

    `rows` are scores, then variants, then the values of the repetitions in the same order; bars are means.
    """
    if not rows:
        raise UserError("there are no scores to compare", hint="train both variants with one seed at least")
    figure, axes = _figure(3.6 * len(rows), 3.6, len(rows), title)
    for (score, variants), ax in zip(rows.items(), axes, strict=True):
        for x, (values, color) in enumerate(zip(variants.values(), LINES * len(variants), strict=False)):
            ax.bar(x, float(np.mean(values)), width=0.6, color=color, alpha=0.25)
            ax.annotate(f"{np.mean(values):.3f}", (x, 0), (0, 6), textcoords="offset points", ha="center",
                        fontsize=10, color=color, fontweight="bold")  # fmt: skip
        for values in zip(*variants.values(), strict=True):
            ax.plot(range(len(values)), values, color=GREY, lw=1.2, marker="o", ms=4.5)
        ax.set_xticks(range(len(variants)), list(variants))
        ax.set(ylabel=score)
        ax.set_ylim(bottom=0)
        ax.margins(x=0.15)
    return _drawn(figure, path)


def _figure(width: float, height: float, panels: int, title: str) -> tuple[Any, Any]:
    """A figure that belongs to nobody: no pyplot, so no global state and no window."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("matplotlib is not installed", hint="pip install 'masklet[report]'") from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("#c3c9d0")
        ax.tick_params(colors=GREY, labelsize=9)
        ax.xaxis.label.set_color(GREY)
        ax.yaxis.label.set_color(GREY)
        ax.grid(True, color="#e8ebee", lw=0.8)
        ax.set_axisbelow(True)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    return figure, axes


def _drawn(figure: Any, path: Path | None) -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
    if path is not None:
        with replacing(path) as unfinished:
            Image.fromarray(picture).save(unfinished)
    return picture
