"""`masklet weights list|convert`: trained models by name, and files of other projects made ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masklet.cli.group import Group, options
from masklet.cli.report import Json, Report
from masklet.cli.words import choices, settings_of

app = typer.Typer(cls=Group, help="List the trained models; convert weight files of other projects.", **options())


@app.command("list")
def list_weights(json: Json = False) -> Report:
    """List the trained models that `masklet predict --model NAME` takes, with their scores."""
    from masklet.weights import CATALOG, read_note

    more, lines = {}, []
    for name, entry in CATALOG.items():
        note = (read_note(entry.path) or {}) if entry.path.exists() else {}
        scores = note.get("scores", {})
        more[name] = {
            "about": entry.about,
            "data": entry.data,
            "licence": entry.licence,
            "model": note.get("model"),
            "classes": note.get("classes", {}).get("names", []),
            "scores": scores,
            "path": entry.path if note else None,
        }
        score = f"mIoU {scores['miou']:.3f} on {entry.data}" if "miou" in scores else entry.data
        lines.append(f"{name:<10}{entry.about}  [{score if note else 'not in this copy; run: make train-bundled'}]")
    return Report("weights list", more={"weights": more}, text="\n".join(lines))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Weight file: .pth, .pt, .safetensors.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Options of the system as key=value: backbone=resnet50 num_classes=19")
    ] = None,
    *,
    model: Annotated[str, typer.Option(help="The system that it is for (see masklet models).")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    origin: Annotated[str | None, typer.Option(help="The code base it comes from; recognised if left out.")] = None,
    classes: Annotated[str | None, typer.Option(help="Names of the classes, with commas.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store kernels as 16-bit floats.")] = False,
    json: Json = False,
) -> Report:
    """Turn a weight file of another project into one that says itself what it is."""
    from masklet.structures import Classes, UserError
    from masklet.weights import load, save_checkpoint

    if out.suffix != ".safetensors":
        raise UserError(f"--out is {out}, but checkpoints are safetensors files", hint=f"write {out.stem}.safetensors")
    taken = settings_of(settings, "")
    if classes is not None:
        taken["classes"] = Classes(choices(classes, "--classes"))
    loaded = load(model, source, origin=origin, **taken)
    path = save_checkpoint(out, loaded, {"converted": {"file": source.name, "origin": origin}}, half=half)
    count = sum(p.numel() for p in loaded.parameters())
    return Report(
        "weights convert", model=model, files=[path], more={"parameters": count}, text=f"{count:,} parameters"
    )
