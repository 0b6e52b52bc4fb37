"""`masklet score`: prediction files against truth files, whoever wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masklet.cli.group import options
from masklet.cli.report import Json, Report, progress_bar
from masklet.cli.words import choices, one_of

app = typer.Typer(**options())

METRICS = ("miou",)


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="Folder of index pictures: the value of a pixel is its class.")],
    truth: Annotated[str, typer.Argument(help="Folder of index pictures of the same names, or data as kind:path.")],
    metric: Annotated[str, typer.Option(help="What to compute: miou, with accuracies and Dice beside it.")] = "miou",
    split: Annotated[str, typer.Option(help="Part of a kind:path: train, val, test or all.")] = "val",
    classes: Annotated[str | None, typer.Option(help="Class names with commas, or their number.")] = None,
    ignore: Annotated[int, typer.Option(help="Value in the truth that does not count.")] = 255,
    mode: Annotated[str, typer.Option(help="dataset: add up pixels; image: average over images.")] = "dataset",
    absent: Annotated[
        str, typer.Option(help="skip: classes that never occur have no score; zero: they score 0.")
    ] = "skip",
    json: Json = False,
) -> Report:
    """Score prediction files against truth files."""
    one_of(metric, "--metric", METRICS)
    one_of(mode, "--mode", ("dataset", "image"))
    one_of(absent, "--absent", ("skip", "zero"))
    from masklet.data.sources import open_source
    from masklet.inference.score import score_files
    from masklet.structures import Classes

    kind = ":" in truth and not Path(truth).exists()
    known: Classes | int | None = None
    if classes is not None:
        known = int(classes) if classes.isdecimal() else Classes(choices(classes, "--classes"))
    with progress_bar("scoring") as progress:
        found = score_files(
            predictions,
            open_source(truth, split=split) if kind else Path(truth),
            classes=known,
            ignore=ignore,
            mode=mode,
            absent=absent,
            progress=progress,
        )
    return Report(
        "score",
        data=truth,
        split=split if kind else None,
        metrics=found.compute(),
        more={"images": found.images, "mode": mode, "absent": absent},
        text=f"{found.images} images",
    )
