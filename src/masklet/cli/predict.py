"""`masklet predict`: masks for whatever pictures there are."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from masklet.cli.group import Mistake, options
from masklet.cli.prompts import DEFAULT, is_promptable, system_named, things_of
from masklet.cli.report import Json, Report, progress_bar
from masklet.cli.shared import Batch, Crf, Device, Flip, Model, Precision, Scales, Tile, Weights, ready
from masklet.cli.words import choices, numbers, one_of

app = typer.Typer(**options())


@app.command()
def predict(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders, globs, videos.")],
    model: Model = DEFAULT,
    weights: Weights = None,
    out: Annotated[Path, typer.Option(help="Folder for what is written.")] = Path("masklet_out"),
    formats: Annotated[
        str, typer.Option(help="Any of overlay, overlay.png, index, coco, json, html, with commas.")
    ] = "overlay,index,coco,json,html",
    tile: Tile = None,
    flip: Flip = False,
    scales: Scales = "1",
    crf: Crf = False,
    long_side: Annotated[
        int | None, typer.Option(help="Let the model see larger pictures shrunk to this side.")
    ] = None,
    depth: Annotated[
        Path | None,
        typer.Option(help="For models that look at depth: that of the picture, or a folder of them."),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="That of the depth, fx,fy,cx,cy in pixels; a Kinect if left out.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Leave out objects with a lower score: 0.5, without prompts the system's own.")
    ] = None,
    point: Annotated[
        list[str] | None, typer.Option(help="X,Y of an object, X,Y,0: not this. With :NAME where there are several.")
    ] = None,
    box: Annotated[list[str] | None, typer.Option(help="X0,Y0,X1,Y1 around an object, or with :NAME.")] = None,
    mask: Annotated[list[str] | None, typer.Option(help="Picture of a rough mask (not 0), or with :NAME.")] = None,
    scribble: Annotated[
        list[str] | None, typer.Option(help="Picture of strokes: 1 or 255 the object, 2 or 128 not; or with :NAME.")
    ] = None,
    grid: Annotated[
        int | None, typer.Option(min=1, help="Without prompts: so many clicks a side look for objects (24; SAM: 32).")
    ] = None,
    sharpen: Annotated[
        bool, typer.Option("--sharpen", help="Draw borders of prompted masks where colours change (graph cut).")
    ] = False,
    precision: Precision = "auto",
    device: Device = "auto",
    batch: Batch = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many pictures.")] = None,
    json: Json = False,
) -> Report:
    """Masks for files, folders, globs ('photos/*.jpg') and videos.

    Models that take prompts (click, sam_..., sam2_..., and grabcut, which needs no weights) answer --point, --box,
    --mask and --scribble on one picture; without them they look for all objects of every picture.

    Writes overlays, index pictures (the value of a pixel is its class), coco.json, summary.json and report.html.
    Pictures that cannot be read are left out and named at the end; the exit code is then 2.
    """
    sizes = numbers(scales, "--scales")
    one_of(precision, "--precision", ("auto", "fp32", "bf16"))
    system_named(model, weights)
    from masklet.inference.image import collect
    from masklet.inference.writers import FORMATS, predict_files

    pinhole = _camera(camera) if camera is not None else None
    kinds = choices(formats, "--formats", (*FORMATS, "overlay.png"))
    found = collect(inputs, videos=True)[0][:limit]
    _all_there(found)
    said = things_of(point or (), box or (), mask or (), scribble or ())
    if said or model == "grabcut" or is_promptable(model):
        loaded, where = _asked(model, weights, device, found, said, grid, threshold, sharpen)
        least = None
    else:
        if grid is not None or sharpen:
            raise Mistake(f"{model} takes no prompts", "leave out --grid and --sharpen")
        loaded, where = (model, device) if weights is None else ready(model, weights, device)
        least = 0.5 if threshold is None else threshold
    with progress_bar("predicting") as progress:
        written = predict_files(
            loaded,
            found,
            out,
            formats=kinds,
            progress=progress,
            tile=tile,
            flip=flip,
            scales=sizes,
            crf=crf,
            long_side=long_side,
            threshold=least,
            precision=precision,
            device=where,
            batch=batch,
            depth=depth,
            camera=pinhole,
        )
    frames = f" and {written.frames} video frames" if written.frames else ""
    text = f"{len(written.images)} pictures{frames}, {written.seconds:.2f} s in the model; results in {out}"
    more = {"images": written.images, "frames": written.frames, "computing": written.seconds}
    if written.unreadable:
        reasons = [str(one.error) for one in written.unreadable]
        error = f"{len(reasons)} of {len(found)} pictures could not be read"
        text = "\n".join([text, f"{error}:", *reasons])
        more |= {"error": error, "hint": "the others are done", "unreadable": reasons}
    return Report(
        "predict",
        model=model,
        files=_most_telling_first(written.files),
        more=more,
        text=text,
        exit_code=2 if written.unreadable else 0,
    )


def _asked(
    model: str,
    weights: Path | None,
    device: str,
    found: Sequence[Any],
    said: Sequence[Any],
    grid: int | None,
    threshold: float | None,
    sharpen: bool,
) -> tuple[Any, str]:
    """The model with what it is asked, and its device."""
    from masklet.inference.asked import GRABCUT, Asked
    from masklet.inference.everything import usual
    from masklet.inference.image import is_video

    if said and len(found) != 1:
        raise Mistake(f"prompts belong to one picture, {len(found)} were named", "name one picture")
    if films := [path for path in found if is_video(path)]:
        hint = "`masklet track` follows what is clicked on; --model pets and the like see every frame by itself"
        raise Mistake(f"{films[0]} is a video", hint)
    if said and grid is not None:
        raise Mistake("--grid is for finding objects without prompts", "leave it out")
    if model == GRABCUT:
        if weights is not None:
            raise Mistake("grabcut has no weights", "leave out --weights")
        return Asked(None, said, sharpen=sharpen), "auto"
    loaded, where = ready(model, weights, device)
    changes: dict[str, Any] = {} if grid is None else {"points": grid}
    changes |= {} if threshold is None else {"score": threshold}
    return Asked(loaded, said, replace(usual(loaded), **changes), sharpen, model), where


def _camera(text: str) -> Any:
    from masklet.ops.hha import Camera

    values = numbers(text, "--camera")
    if len(values) != 4 or min(values[:2]) <= 0:
        raise Mistake(f"--camera is {text!r}", "give fx,fy,cx,cy in pixels, such as 518.9,519.5,325.6,253.7")
    return Camera(*values)


def _all_there(paths: Sequence[Any]) -> None:
    """Says now, not after the ninth picture, that the tenth does not exist."""
    for path in paths:
        if not path.exists():
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.6)
            raise Mistake(f"{path} does not exist", f"did you mean {path.parent / near[0]}?" if near else None)


def _most_telling_first(files: Sequence[Path]) -> list[Path]:
    """The report and the other files about all pictures before those of single ones."""
    return sorted(files, key=lambda path: (path.suffix != ".html", path.suffix != ".json"))
