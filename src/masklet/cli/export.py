"""`masklet export`: a model as one file for another run time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masklet.cli.group import options
from masklet.cli.report import Json, Report
from masklet.cli.words import one_of, pair

app = typer.Typer(**options())


@app.command()
def export(
    model: Annotated[str, typer.Option(help="A trained model's name, a checkpoint, or a system with --weights.")],
    out: Annotated[Path | None, typer.Option(help="The .pt2 file to write; MODEL.pt2 if left out.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weight file for the system.")] = None,
    size: Annotated[str, typer.Option(help="Height and width of its images: 512 or 360x480.")] = "512",
    outputs: Annotated[str, typer.Option(help="logits (B, K, H, W), or labels (B, H, W) as bytes.")] = "logits",
    batch: Annotated[int | None, typer.Option(help="Take exactly so many images; any number if left out.")] = None,
    json: Json = False,
) -> Report:
    """Save a model as a torch.export program, which runs without this library, and check it against the model."""
    from masklet.export.program import export_program
    from masklet.weights import load

    height_width = pair(size, "--size")
    one_of(outputs, "--outputs", ("logits", "labels"))
    loaded = load(model, weights)
    done = export_program(
        loaded, out or Path(f"{Path(model).stem}.pt2"), size=height_width, outputs=outputs, batch=batch
    )
    return Report(
        "export",
        model=model,
        files=[done.path],
        metrics={"difference": done.difference},
        more={"size": list(done.size), "batch": batch, "outputs": outputs},
        text=f"takes images ({batch or 'B'}, 3, {height_width[0]}, {height_width[1]}), RGB in 0..1, gives {outputs}",
    )
