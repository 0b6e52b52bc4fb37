"""`masklet demo`: the first thing to run after installing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masklet.cli.group import options
from masklet.cli.report import Json, Report, progress_bar

app = typer.Typer(**options())


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page and the pictures.")] = Path("masklet_demo"),
    data: Annotated[Path, typer.Option(help="Folder with camvid, flood_area or pets; used where it exists.")] = Path(
        "../shared/data"
    ),
    examples: Annotated[int, typer.Option(min=0, help="Validation pictures per data set.")] = 4,
    json: Json = False,
) -> Report:
    """Run the bundled models on sample photographs and make a page of the results. Needs no network."""
    from masklet.inference.demo import run_demo

    with progress_bar("looking at pictures") as progress:
        made = run_demo(out, data=data, examples=examples, progress=progress)
    return Report(
        "demo",
        metrics=dict(made.metrics),
        files=list(made.files),
        text=f"open {made.page} in a browser" + ("; on what has a truth in it:" if made.metrics else ""),
    )
