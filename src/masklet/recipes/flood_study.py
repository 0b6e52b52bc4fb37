"""The lecture's experiment again: FCN, FCN on VGG16 and U-Net on photographs of floods, from random weights.

    python -m masklet.recipes.flood_study --data flood:DIR --out DIR [--size 224] [--epochs 100] [--minutes 30]

The slides give the networks, 224x224, two classes, 25 and 100 epochs, and printed losses (`flood_study.json`). Nothing
augments, nothing decays, Adam's learning rate is constant: so a training of 25 epochs is exactly the first quarter of
one of 100, and each network is trained once. The slides show training losses
only; we add the IoU on held-out images. Run it again to continue.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from masklet.recipes.semantic import Record, SemanticRecipe, run, save_picture
from masklet.viz.curves import loss_curves

MODELS = ("seed_fcn", "seed_fcns", "seed_unet")
MARKS = (25, 100)  # the epochs at which the lecture stopped


def recipe(model: str, data: str, size: int = 224, epochs: int = 100, **changes: Any) -> SemanticRecipe:
    """How one network of the study is trained. The slides tell neither learning rate nor batch: those are ours."""
    plain = {"crop": None, "scale": (1.0, 1.0), "rotate": 0.0, "blur": 0.0, "flip": False, "jitter": 0.0}
    steady = {"optimizer": "adam", "weight_decay": 0.0, "schedule": "constant", "warm_up_epochs": 0.0, "ema": 0.0}
    return SemanticRecipe(
        data=data, model=model, resize=(size, size), epochs=epochs, monitor="iou/flooded",
        **{**plain, **steady, "lr": 1e-4, "batch": 8, "clip": None, **changes},
    )  # fmt: skip


def lecture() -> dict[str, Any]:
    """The losses printed on the slides, and how they are to be read."""
    return json.loads(files("masklet.recipes").joinpath("flood_study.json").read_text())


def study(
    data: str,
    out: Path,
    size: int = 224,
    epochs: int = 100,
    models: Sequence[str] = MODELS,
    minutes: float | None = None,
    progress: bool = True,
    **changes: Any,
) -> dict[str, list[Record]]:
    """Trains the networks one after the other, each in its own folder, and writes what there is so far into `out`:

    flood_study.json (our history of every network and the lecture's losses), flood_study.md and a picture for each.
    `minutes` bounds this sitting.
    """
    histories: dict[str, list[Record]] = {}
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    for model in models:
        left = None if deadline is None else (deadline - time.monotonic()) / 60
        folder = out / model
        resume = (folder / "last.safetensors").exists()
        if left is not None and left <= 0:
            histories[model] = _past(folder)
            continue
        chosen = recipe(model, data, size, epochs, time_budget_minutes=left, **changes)
        histories[model] = run(chosen, folder, resume=resume, progress=progress).history
        write(histories, out, size)
    write(histories, out, size)
    return histories


def write(histories: dict[str, list[Record]], out: Path, size: int) -> None:
    """The report on the histories so far."""
    theirs = {block["taken_as"]: block for block in lecture()["blocks"]}
    ours = {model: [_finite(record) for record in history] for model, history in histories.items()}
    result = {"size": size, "ours": ours, "lecture": lecture()}
    (out / "flood_study.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "flood_study.md").write_text(table(histories, size))
    if find_spec("matplotlib") is None:
        return
    for model, history in histories.items():
        if history:
            rows = beside(history, theirs[model])
            save_picture(loss_curves(rows, title=f"{model}: ours and the lecture's"), out / f"{model}.png")


def beside(history: Sequence[Record], block: dict[str, Any]) -> list[Record]:
    """Our losses and IoU next to the lecture's losses, one record per epoch."""
    rows: dict[int, Record] = {
        int(r["epoch"]): {"ours, training loss": r["loss"]} | _named(r, "iou/flooded", "IoU of flooded, held out")
        for r in history
    }
    printed = [(1, block["epochs_25"], 25), (block["epochs_100"]["first_epoch"], block["epochs_100"]["losses"], 100)]
    for first, losses, length in printed:
        for epoch, loss in enumerate(losses, first):
            rows.setdefault(epoch, {})[f"lecture, loss of the {length} epochs"] = loss
    return [{"epoch": epoch, **rows[epoch]} for epoch in sorted(rows)]


def table(histories: dict[str, list[Record]], size: int) -> str:
    """The comparison in markdown: losses and scores at the epochs where the lecture stopped."""
    theirs = {block["taken_as"]: block for block in lecture()["blocks"]}
    lines = [
        f"Training loss (cross entropy) and IoU of the held-out images at {size}x{size}, from random weights.",
        "",
        "| network | epoch | our loss | lecture's loss | IoU flooded | mIoU |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for model, history in histories.items():
        for epoch in sorted({*(m for m in MARKS if m <= len(history)), len(history)} - {0}):
            ours, block = history[epoch - 1], theirs[model]
            long = block["epochs_100"]
            shown = {25: block["epochs_25"], 100: []}.get(epoch, [])
            other = f"{shown[-1]:.4f}" if shown else ""
            if epoch == MARKS[-1]:
                other = f"{long['losses'][-1]:.4f} (at {long['first_epoch'] + len(long['losses']) - 1}, the last shown)"
            scores = " | ".join(f"{ours.get(k, float('nan')):.4f}" for k in ("iou/flooded", "miou"))
            lines.append(f"| {model} | {epoch} | {ours['loss']:.4f} | {other} | {scores} |")
    return "\n".join([*lines, ""])


def _past(folder: Path) -> list[Record]:
    """The history of a training that has no turn in this sitting."""
    from masklet.train.checkpoint import read_notes

    last = folder / "last.safetensors"
    return read_notes(last)["progress"]["history"] if last.exists() else []


def _named(record: Record, key: str, name: str) -> Record:
    return {name: record[key]} if key in record else {}


def _finite(record: Record) -> Record:
    return {key: value for key, value in record.items() if value == value}  # JSON has no NaN


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m masklet.recipes.flood_study", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--data", required=True, help="flood:DIR")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study; run again to continue it")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--minutes", type=float, help="stop this sitting after so long")
    given = parser.parse_args(words)
    try:
        study(given.data, given.out, given.size, given.epochs, given.models, given.minutes)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((given.out / "flood_study.md").read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
