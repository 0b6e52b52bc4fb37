"""`masklet track`: follow objects through a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from masklet.cli.group import Mistake, options
from masklet.cli.prompts import DEFAULT, system_named
from masklet.cli.report import Json, Report, progress_bar
from masklet.cli.shared import Device, Model, Precision, Weights, ready
from masklet.cli.words import choices, one_of

app = typer.Typer(**options())
POINT = "write FRAME:X,Y, FRAME:X,Y:OBJECT or FRAME:X,Y:OBJECT:0 (not this)"
BOX = "write FRAME:X0,Y0,X1,Y1 or FRAME:X0,Y0,X1,Y1:OBJECT"
MASK = "write FRAME:FILE or FRAME:FILE:OBJECT"


@app.command()
def track(
    video: Annotated[
        str, typer.Argument(metavar="VIDEO", help="A file, a folder or glob of frames, a camera's number.")
    ],
    model: Model = DEFAULT,
    weights: Weights = None,
    point: Annotated[list[str] | None, typer.Option(help="FRAME:X,Y[:OBJECT][:0], a click; 0: not this.")] = None,
    box: Annotated[list[str] | None, typer.Option(help="FRAME:X0,Y0,X1,Y1[:OBJECT].")] = None,
    mask: Annotated[list[str] | None, typer.Option(help="FRAME:FILE[:OBJECT], a picture that is not 0 there.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for what is written.")] = Path("masklet_out"),
    formats: Annotated[str, typer.Option(help="Any of overlay, davis, json, with commas.")] = "overlay,davis,json",
    direction: Annotated[str, typer.Option(help="forward, backward or both, from the prompted frames.")] = "forward",
    frames: Annotated[int | None, typer.Option(min=1, help="Stop before this frame.")] = None,
    fill_hole_area: Annotated[
        int, typer.Option(min=0, help="Fill holes of so many cells of 1/256 side (SAM 2: 8).")
    ] = 0,
    max_sprinkle_area: Annotated[int, typer.Option(min=0, help="Remove specks of so many cells.")] = 0,
    non_overlap: Annotated[bool, typer.Option("--non-overlap", help="Give a pixel to one object only.")] = False,
    memory_budget: Annotated[str | None, typer.Option(help='What may be held, for example "2GiB".')] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    json: Json = False,
) -> Report:
    """Follow objects through a video, from clicks, boxes or masks on any of its frames.

    Objects are numbered from 1 (as where no number is given). Writes overlay.mp4, masks/00000.png as DAVIS has them,
    and masklets.json with run lengths, frame by frame, in constant memory.
    """
    one_of(precision, "--precision", ("auto", "fp32", "bf16"))
    one_of(direction, "--direction", ("forward", "backward", "both"))
    system_named(model, weights)
    prompts = prompts_of(point or (), box or (), mask or ())
    if not prompts:
        raise Mistake("nothing says what to follow", f"--point, --box or --mask; {POINT}")
    import torch

    from masklet.data.images import read_labels
    from masklet.inference.track_files import FORMATS, write_tracks
    from masklet.inference.tracking import Tidy, VideoSession
    from masklet.parts.precision import automatic

    kinds = tuple(choices(formats, "--formats", FORMATS))
    loaded, where = ready(model, weights, device)
    where = "cpu" if where == "auto" else where
    loaded = loaded.to(where)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(precision) or automatic(where)
    source: Any = int(video) if video.isdecimal() and not Path(video).exists() else video
    tidy = Tidy(fill_hole_area, max_sprinkle_area, non_overlap)
    session = VideoSession(loaded, source, memory_budget=memory_budget, dtype=dtype, tidy=tidy)
    for (frame, number), said in sorted(prompts.items()):
        if "mask" in said:
            drawn = read_labels(said.pop("mask")) > 0
            session.add_prompt(frame, number, mask=drawn)
        if said:
            session.add_prompt(frame, number, **said)
    with progress_bar("tracking") as progress:
        done = write_tracks(
            session, out, source=source, direction=direction, stop=frames, formats=kinds, progress=progress
        )
    seen = ", ".join(f"object {number} in {count}" for number, count in done.seen.items())
    return Report(
        "track",
        model=model,
        data=video,
        files=done.files,
        more={"frames": done.frames, "seen": done.seen, "memory": session.memory_report()["total"]},
        text=f"{done.frames} frames: {seen}; results in {out}",
    )


def prompts_of(
    points: Sequence[str], boxes: Sequence[str], masks: Sequence[str]
) -> dict[tuple[int, int], dict[str, Any]]:
    """What is said of each object in each frame: points and labels, a box, the file of a mask."""
    said: dict[tuple[int, int], dict[str, Any]] = {}
    for word in boxes:
        frame, numbers, rest = _split(word, "--box", 4, BOX)
        if numbers[2] <= numbers[0] or numbers[3] <= numbers[1]:
            raise Mistake(f"--box {word} ends before it begins", "write X0,Y0,X1,Y1, not X,Y,WIDTH,HEIGHT")
        _once(said.setdefault((frame, _object(rest, word, "--box", BOX)), {}), "box", numbers, word)
    for word in masks:
        head, _, tail = word.partition(":")
        file, _, number = (tail, "", "") if Path(tail).exists() else tail.rpartition(":")
        file = file or tail
        if not head.isdecimal():
            raise Mistake(f"--mask is {word!r}", MASK)
        if not Path(file).is_file():
            raise Mistake(f"--mask {file} does not exist", MASK)
        here = said.setdefault((int(head), _object([number] if number else [], word, "--mask", MASK)), {})
        _once(here, "mask", file, word)
    for word in points:
        frame, numbers, rest = _split(word, "--point", 2, POINT)
        label = 1
        if rest and rest[-1] == "0":  # objects count from 1
            label, rest = 0, rest[:-1]
        elif len(rest) == 2 and rest[-1] == "1":
            rest = rest[:-1]
        here = said.setdefault((frame, _object(rest, word, "--point", POINT)), {})
        here.setdefault("points", []).append(numbers)
        here.setdefault("labels", []).append(label)
    return said


def _split(word: str, option: str, count: int, form: str) -> tuple[int, list[float], list[str]]:
    """Frame, numbers, and what follows."""
    frame, *parts = word.split(":")
    try:
        numbers = [float(number) for number in parts[0].split(",")] if parts else []
    except ValueError:
        numbers = []
    if not frame.isdecimal() or len(numbers) != count or len(parts) > 3:
        raise Mistake(f"{option} is {word!r}", form)
    return int(frame), numbers, parts[1:]


def _object(rest: Sequence[str], word: str, option: str, form: str) -> int:
    if len(rest) > 1 or (rest and (not rest[0].isdecimal() or rest[0] == "0")):
        raise Mistake(f"{option} is {word!r}", form)
    return int(rest[0]) if rest else 1


def _once(said: dict[str, Any], what: str, value: Any, word: str) -> None:
    if what in said:
        raise Mistake(f"--{what} {word} is the second of its object in this frame", "give it another number")
    said[what] = value
