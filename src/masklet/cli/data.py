"""`masklet data check|convert|show`: data sets before they are trained on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from masklet.cli.group import Group, options
from masklet.cli.report import Json, Report, progress_bar
from masklet.cli.words import settings_of

app = typer.Typer(cls=Group, help="Check, convert and look at data sets.", **options())

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="The data set as kind:path, for example folder:photos.")]
Split = Annotated[str, typer.Option(help="train, val, test or all.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="Option of the reader as key=value: mask_suffix=_mask.")
]


@app.command()
def check(
    source: Source,
    split: Split = "all",
    option: Options = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Look at so many samples, evenly spread.")] = None,
    json: Json = False,
) -> Report:
    """Open every image and mask and name the bad files. Exit code 1 if there are errors, 0 if only warnings."""
    from masklet.data.check import check as run

    with progress_bar("checking") as progress:
        findings = run(source, split=split, limit=limit, progress=progress, **settings_of(option, "--option "))
    errors = sum(finding.level == "error" for finding in findings)
    lines = [f"{f.level}: {f.file}: {f.message}" + (f"\n  hint: {f.hint}" if f.hint else "") for f in findings]
    count = f"{_some(errors, 'error')}, {_some(len(findings) - errors, 'warning')}"
    return Report(
        "data check",
        data=source,
        split=split,
        more={
            "findings": [asdict(finding) for finding in findings],
            "errors": errors,
            "warnings": len(findings) - errors,
        },
        text="\n".join([*lines, count if findings else "nothing wrong"]),
        exit_code=1 if errors else 0,
    )


@app.command()
def convert(
    source: Source,
    out: Annotated[Path, typer.Argument(help="New folder for the converted data set.")],
    to: Annotated[
        str,
        typer.Option(
            help="folder (index PNG masks), flood, coco, coco_panoptic, rgbd, labelme, yolo, via, nuclei (id maps)."
        ),
    ] = "folder",
    split: Split = "all",
    option: Options = None,
    json: Json = False,
) -> Report:
    """Write a data set in another layout, and say what that layout cannot keep."""
    from masklet.data.formats import convert as run
    from masklet.data.sources import open_source

    found = open_source(source, split=split, **settings_of(option, "--option "))
    lost: list[str] = []
    with progress_bar("converting") as progress:
        folder = run(found, out, to, progress, lost.append)
    return Report(
        "data convert",
        data=source,
        split=split,
        files=[folder],
        more={"samples": len(found), "to": to, "lost": lost},
        text="\n".join([f"{len(found)} samples as {to}", *(f"lost: {sentence}" for sentence in lost)]),
    )


@app.command()
def show(
    source: Source,
    split: Split = "train",
    option: Options = None,
    count: Annotated[int, typer.Option(min=1, help="Samples to show, evenly spread.")] = 12,
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("data.png"),
    json: Json = False,
) -> Report:
    """Draw the truth over some samples, as a contact sheet."""
    from PIL import Image

    from masklet.data.sources import open_source
    from masklet.structures.files import replacing
    from masklet.viz.contact import contact_sheet
    from masklet.viz.truth import truth_overlay

    found = open_source(source, split=split, **settings_of(option, "--option "))
    count = min(count, len(found))
    samples = [found[i * len(found) // count] for i in range(count)]
    pictures = [truth_overlay(sample) for sample in samples]
    rows = range(0, count, 4)
    with replacing(out) as unfinished:
        Image.fromarray(
            contact_sheet(
                [pictures[i : i + 4] for i in rows],
                captions=[[sample.name for sample in samples[i : i + 4]] for i in rows],
                key=None if all(sample.semantic is None for sample in samples) else found.classes,
                title=f"{source} ({split}): {len(found)} samples",
            )
        ).save(unfinished)
    return Report(
        "data show",
        data=source,
        split=split,
        files=[out],
        more={"samples": len(found), "classes": list(found.classes.names)},
        text=f"{len(found)} samples, {len(found.classes)} classes: {', '.join(found.classes.names)}",
    )


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
