"""`masklet score`: prediction files against truth files, whoever wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from masklet.cli.group import Mistake, options
from masklet.cli.report import Json, Report, progress_bar
from masklet.cli.words import choices, one_of, settings_of

app = typer.Typer(**options())


def list_metrics(wanted: bool) -> bool:
    """Prints every metric with what it reads and its settings, and leaves."""
    if not wanted:
        return False
    from masklet.inference import scores

    for name, scorer in scores.SCORERS.items():
        print(f"{name}: {scorer.about}")
        known = [f"{key}={parameter.default}" for key, parameter in scores.options(name).items()]
        print(f"    -o {' '.join(known) or 'nothing'}")
    raise typer.Exit


@app.command()
def score(
    predictions: Annotated[
        Path, typer.Argument(help="Folder or file of predictions, in the metric's official format.")
    ],
    truth: Annotated[str, typer.Argument(help="The same for the truth; for miou also data as kind:path.")],
    metric: Annotated[str, typer.Option(help="What to compute; see --list.")] = "miou",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Setting of the metric as key=value, repeatable.")
    ] = None,
    split: Annotated[str, typer.Option(help="Part of a kind:path: train, val, test or all.")] = "val",
    classes: Annotated[str | None, typer.Option(help="Class names with commas, or their number.")] = None,
    ignore: Annotated[int | None, typer.Option(help="Value in the truth that does not count (miou: 255).")] = None,
    mode: Annotated[str | None, typer.Option(help="miou: dataset adds up pixels, image averages over images.")] = None,
    absent: Annotated[
        str | None, typer.Option(help="miou: skip gives classes that never occur no score, zero gives them 0.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write an HTML page with summary, tables and curves here.")] = None,
    every: Annotated[
        bool, typer.Option("--list", callback=list_metrics, is_eager=True, help="List all metrics and their settings.")
    ] = False,
    json: Json = False,
) -> Report:
    """Score prediction files against truth files.

    Prints what the metric's official tool prints, and a row per class, sequence or image. Metrics and what they can be
    told with -o: masklet score --list.
    """
    from masklet.data.sources import open_source
    from masklet.inference import scores

    one_of(metric, "--metric", tuple(scores.SCORERS))
    settings = settings_of(option, "--option ")
    named = {"ignore": ignore, "mode": mode, "absent": absent, "classes": classes}
    settings |= {key: value for key, value in named.items() if value is not None}
    if isinstance(settings.get("classes"), str):
        word = settings["classes"]
        settings["classes"] = int(word) if word.isdecimal() else choices(word, "--classes")
    check(metric, settings, scores.options(metric))
    kind = scores.SCORERS[metric].sources and ":" in truth and not Path(truth).exists()
    with progress_bar("scoring") as progress:
        found = scores.scorer(metric)(
            predictions,
            open_source(truth, split=split) if kind else Path(truth),
            **settings,
            progress=progress,
        )
    metrics = found.compute()
    rows = [dict(row) for row in found.table()] if isinstance(found, scores.Tabled) else []
    summary = found.summary() if isinstance(found, scores.Summed) else ""
    files = []
    if page is not None:
        from masklet.viz.scores import save_score_page

        facts = {"predictions": str(predictions), "truth": truth, **{k: str(v) for k, v in settings.items()}}
        curves = found.curves() if isinstance(found, scores.Drawn) else ()
        files.append(save_score_page(page, metric, metrics, summary, rows, curves, facts))
    images = getattr(found, "images", None)
    text = [f"{images} images" if isinstance(images, int) else "", summary]
    if summary:
        text.append(as_rows(rows))
    return Report(
        "score",
        data=truth,
        split=split if kind else None,
        metrics=metrics,
        files=files,
        more={"metric": metric, "table": rows}
        | ({"images": images} if isinstance(images, int) else {})
        | {key: value for key, value in settings.items() if key != "classes"},
        text="\n".join(part for part in text if part),
        shown=not summary,
    )


def check(metric: str, settings: Mapping[str, Any], accepted: Mapping[str, Any]) -> None:
    """Refuses settings that the metric does not have, and values of another kind than its default."""
    for key, value in settings.items():
        one_of(key, f"-o of {metric}", tuple(accepted))
        default = accepted[key].default
        known = (int, float) if isinstance(default, float) else type(default)
        if isinstance(default, bool | int | float | str) and not (
            isinstance(value, known) and isinstance(value, bool) == isinstance(default, bool)
        ):
            raise Mistake(f"-o {key} is {value!r}", f"write it like its default, -o {key}={str(default).lower()}")


def as_rows(rows: list[dict[str, Any]]) -> str:
    """A table of text, one line per row; numbers right, words left."""
    if not rows:
        return ""
    cells = [[*rows[0]], *([shown(value) for value in row.values()] for row in rows)]
    words = [isinstance(value, str) for value in rows[0].values()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.ljust(w) if word else c.rjust(w) for c, w, word in zip(line, widths, words, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join(["", *lines])


def shown(value: Any) -> str:
    """A cell: four digits for fractions, a dash for what is not there."""
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4f}"
    return str(value)
