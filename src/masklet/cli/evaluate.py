"""`masklet evaluate`: a model on data with truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masklet.cli.group import Mistake, options
from masklet.cli.report import Json, Report, progress_bar
from masklet.cli.shared import Batch, Crf, Device, Flip, Model, Precision, Scales, Tile, Weights, ready
from masklet.cli.words import numbers, one_of

app = typer.Typer(**options())


@app.command()
def evaluate(
    model: Model,
    data: Annotated[str, typer.Option(help="Data with truth, as kind:path.")],
    weights: Weights = None,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "val",
    tile: Tile = None,
    flip: Flip = False,
    scales: Scales = "1",
    crf: Crf = False,
    precision: Precision = "auto",
    device: Device = "auto",
    batch: Batch = 1,
    mode: Annotated[str, typer.Option(help="dataset: add up pixels; image: average over images.")] = "dataset",
    absent: Annotated[
        str, typer.Option(help="skip: classes that never occur have no score; zero: they score 0.")
    ] = "skip",
    max_dets: Annotated[
        int | None, typer.Option(min=1, help="Most objects of a class and picture that count; COCO: 100.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="Of models that take prompts, and grabcut: clicks (simulated) or box (true); vos: videos."),
    ] = None,
    clicks: Annotated[
        int | None, typer.Option(min=1, help="Most clicks on an object (20); vos: on its first frame, not its mask.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many prompted objects; vos: videos.")] = None,
    json: Json = False,
) -> Report:
    """Score a model on data with truth: mean IoU, accuracies and Dice of classes; average precision of objects.

    With --protocol: mean IoU after 1, 2, ... simulated clicks and their number (NoC), or in true boxes (iou@1); J, F
    and J&F of the objects of videos (vos), given the true masks of first frames, or clicks there.
    """
    one_of(precision, "--precision", ("auto", "fp32", "bf16"))
    if protocol == "vos":
        return _followed(model, weights, data, split, device, precision, clicks, limit)
    if protocol is not None:
        return _prompted(model, weights, data, split, device, protocol, 20 if clicks is None else clicks, limit)
    sizes = numbers(scales, "--scales")
    one_of(mode, "--mode", ("dataset", "image"))
    one_of(absent, "--absent", ("skip", "zero"))
    from masklet.data.sources import open_source
    from masklet.inference.evaluate import evaluate as run

    source = open_source(data, split=split)
    loaded, where = (model, device) if weights is None else ready(model, weights, device)
    with progress_bar("evaluating") as progress:
        metrics = run(
            loaded,
            source,
            mode=mode,
            absent=absent,
            max_dets=max_dets,
            progress=progress,
            tile=tile,
            flip=flip,
            scales=sizes,
            crf=crf,
            precision=precision,
            device=where,
            batch=batch,
        )
    return Report(
        "evaluate",
        model=model,
        data=data,
        split=split,
        metrics=metrics,
        more={"images": len(source), "mode": mode, "absent": absent, "max_dets": max_dets},
        text=f"{model} on {len(source)} images of {data} ({split})",
    )


def _prompted(
    model: str,
    weights: Path | None,
    data: str,
    split: str,
    device: str,
    protocol: str,
    clicks: int,
    limit: int | None,
) -> Report:
    """Scores of a model that is told what is meant."""
    from masklet.inference.evaluate_clicks import PROTOCOLS

    one_of(protocol, "--protocol", (*PROTOCOLS, "vos"))
    from masklet.data.sources import open_source
    from masklet.inference.asked import GRABCUT
    from masklet.inference.cutting import Cutter
    from masklet.inference.evaluate_clicks import measure_prompts

    if model == GRABCUT and weights is not None:
        raise Mistake("grabcut has no weights", "leave out --weights")
    source = open_source(data, split=split)
    loaded, where = (Cutter(), device) if model == GRABCUT else ready(model, weights, device)
    with progress_bar("evaluating") as progress:
        score = measure_prompts(loaded, source, protocol, clicks=clicks, limit=limit, device=where, progress=progress)
    metrics = {name: value for name, value in score.compute().items() if protocol == "clicks" or name == "iou@1"}
    return Report(
        "evaluate",
        model=model,
        data=data,
        split=split,
        metrics=metrics,
        more={"images": len(source), "objects": score.objects, "protocol": protocol},
        text=f"{model} on {score.objects} objects of {data} ({split}), by {protocol}\n{score.summary()}",
    )


def _followed(
    model: str,
    weights: Path | None,
    data: str,
    split: str,
    device: str,
    precision: str,
    clicks: int | None,
    limit: int | None,
) -> Report:
    """Scores of a model that follows objects through videos."""
    from masklet.data.sources import open_source
    from masklet.inference.evaluate_vos import measure_vos

    source = open_source(data, split=split)
    loaded, where = ready(model, weights, device)
    with progress_bar("following") as progress:
        score = measure_vos(
            loaded, source, clicks=clicks, limit=limit, precision=precision, device=where, progress=progress
        )
    told = "their masks" if clicks is None else "1 click" if clicks == 1 else f"{clicks} clicks"
    videos, objects = len(score.sequences), len(score.tracks())
    return Report(
        "evaluate",
        model=model,
        data=data,
        split=split,
        metrics=score.compute(),
        more={"videos": videos, "objects": objects, "protocol": "vos", "clicks": clicks},
        text=f"{model} on {objects} objects in {videos} videos of {data} ({split}), from {told} on first frames",
    )
