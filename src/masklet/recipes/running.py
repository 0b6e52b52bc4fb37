"""What every recipe does between its data and its result: files, logs, resuming, validating, several processes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from masklet.data.sources import open_source
from masklet.models import build
from masklet.parts import precision
from masklet.recipes.plans import SITTING
from masklet.structures import Classes
from masklet.structures.errors import UserError
from masklet.structures.files import replacing
from masklet.train.checkpoint import Record, load_last, read_notes, save_last
from masklet.train.distributed import Team, team
from masklet.train.ema import Ema
from masklet.train.feed import Batches
from masklet.train.log import StepLog, TensorBoard, write_csv
from masklet.train.loop import Training, fit
from masklet.train.optim import build_optimizer
from masklet.train.schedule import build_schedule
from masklet.viz.curves import loss_curves
from masklet.weights import CATALOG, fill, read_note, save_checkpoint

__all__ = ["Record", "Result", "assemble", "autocast", "carry_out", "initial_model", "save_picture", "sources_of"]

DETAIL = re.compile(r"/|(^|_)ar(@|_|\d|$)|_(small|medium|large)$")  # in the tables, not on the screen


@dataclass(frozen=True)
class Result:
    """What a training left behind."""

    out: Path
    best: Path  # loadable by masklet.load
    scores: Record  # of the best epoch, as they are noted in the file
    best_epoch: int
    epochs: int
    seconds: float
    finished: str  # why it is over; empty when only the time was up
    history: list[Record]


def sources_of(recipe: Any) -> tuple[Any, Any]:
    """What a recipe trains on, and what it validates on (None if never): of the same classes."""
    source = open_source(recipe.data, split=recipe.split)
    val: Any = open_source(recipe.val_data or recipe.data, split=recipe.val_split) if recipe.val_split else None
    if val is not None and val.classes.names != source.classes.names:
        raise UserError(f"training has classes {source.classes.names}, validation {val.classes.names}")
    return source, val


def initial_model(recipe: Any, classes: Classes, device: torch.device) -> Any:
    """The recipe's model as training begins, its random weights from the recipe's seed.

    One that starts from a checkpoint of its own kind is built as that was, but for what the recipe's options say.
    """
    torch.manual_seed(recipe.seed)
    model = build(recipe.model, classes=classes, **{**_options_of(recipe.start, recipe.model), **recipe.options})
    if recipe.start is not None:
        fill(model, recipe.start, fresh=recipe.fresh)
    return precision.channels_last(model.to(device))


def _options_of(start: str | None, model: str) -> dict[str, Any]:
    """How a bundled model or checkpoint of system `model` was built; nothing for other systems and foreign files."""
    if start is None:
        return {}
    path = CATALOG[start].path if start in CATALOG else Path(start)
    note = read_note(path) if path.suffix == ".safetensors" and path.exists() else None
    same = note is not None and note.get("model") == model
    return {key: value for key, value in note["options"].items() if key != "num_classes"} if note and same else {}


def assemble(recipe: Any, model: nn.Module, step: nn.Module, feed: Batches, warm_up: int, crew: Team) -> Training:
    """Optimizer, schedule (after `warm_up` steps) and average for the recipe's model, at the start."""
    steps = math.ceil(len(feed) / recipe.accumulate)
    return Training(
        model=model,
        step=crew.wrap(step),
        feed=feed,
        optimizer=build_optimizer(
            recipe.optimizer, model, recipe.lr, recipe.weight_decay, recipe.momentum, recipe.lr_factors
        ),
        schedule=build_schedule(recipe.schedule, recipe.epochs * steps, warm_up),
        ema=Ema(model, recipe.ema) if recipe.ema else None,
        team=crew,
    )


def carry_out(
    recipe: Any,
    out: Path,
    prepare: Callable[[Team], Training],
    validate: Callable[[nn.Module], Record] | None,
    *,
    resume: bool = False,
    progress: bool = True,
    on_epoch: Callable[[Record], None] | None = None,
    on_best: Callable[[], None] = lambda: None,
) -> Result:
    """Trains what `prepare` puts together as `recipe` says and writes into `out`.

    best.safetensors (for `masklet.load`), last.safetensors (full state: `resume=True` continues bit for bit, even
    after kill -9), history.csv, steps.csv, recipe.json and curves.png. `on_best` is called when the best checkpoint
    was written. `progress` goes to stderr.
    """
    last, best = out / "last.safetensors", out / "best.safetensors"
    plain = json.loads(json.dumps(asdict(recipe)))
    if last.exists():
        _check_resume(last, plain, resume)
    out.mkdir(parents=True, exist_ok=True)
    with team(recipe.device) as crew:
        training = prepare(crew)
        if last.exists():
            training.progress = load_last(last, training.model, training.optimizer, training.ema)

        def keep_last() -> None:
            save_last(last, training.model, training.optimizer, training.progress, training.ema, plain)

        def keep_best(scores: Mapping[str, int | float]) -> None:
            note = {"recipe": plain, "scores": dict(scores), "epoch": training.progress.epoch}
            save_checkpoint(best, training.averaged, note)
            on_best()

        events = fit(
            training,
            epochs=recipe.epochs,
            validate=validate,
            save_last=keep_last,
            save_best=keep_best,
            monitor=recipe.monitor,
            validate_every=recipe.validate_every,
            patience=recipe.patience,
            save_every=recipe.save_every,
            save_seconds=recipe.save_seconds,
            stop_seconds=60 * (recipe.time_budget_minutes or math.inf),
            accumulate=recipe.accumulate,
            clip=recipe.clip,
            autocast=lambda: autocast(recipe, crew.device),
        )
        if crew.leads:
            (out / "recipe.json").write_text(json.dumps(plain, indent=2) + "\n")
            _follow(events, training, recipe, out, progress, on_epoch)
            if validate is None or not best.exists():
                keep_best({})
            if training.progress.history and find_spec("matplotlib"):
                history = [{k: v for k, v in r.items() if _drawn(k)} for r in training.progress.history]
                save_picture(loss_curves(history), out / "curves.png")
        else:
            for _ in events:
                pass
    done = training.progress
    scores = (read_note(best) or {}).get("scores", {}) if best.exists() else {}
    return Result(out, best, scores, done.best_epoch, done.epoch, done.seconds, done.finished, done.history)


def autocast(recipe: Any, device: torch.device) -> AbstractContextManager[Any]:
    """Half precision as the recipe says: bf16 where the processor gains from it."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(recipe.precision) or precision.automatic(device)
    return precision.autocast(device, dtype)


def save_picture(picture: Any, path: Path) -> None:
    """Writes a PNG at once or not at all."""
    with replacing(path) as unfinished:
        Image.fromarray(picture).save(unfinished)


def _check_resume(last: Path, plain: dict[str, Any], resume: bool) -> None:
    """The training in `last` may be continued only if that is wanted and its recipe is this one."""
    notes = read_notes(last)
    if not resume:
        raise UserError(
            f"{last.parent} holds a training at epoch {notes['progress']['epoch']}",
            hint="resume=True continues it; or choose another folder",
        )
    old = notes["recipe"]
    changed = [k for k in plain if k not in SITTING and old.get(k) != plain[k]]
    if changed:
        k = changed[0]
        raise UserError(
            f"the training in {last.parent} had {k}={old.get(k)!r}, not {plain[k]!r}",
            hint="a resumed training keeps its recipe; choose another folder for a new one",
        )


def _follow(
    events: Iterable[tuple[str, Record]],
    training: Training,
    recipe: Any,
    out: Path,
    progress: bool,
    on_epoch: Callable[[Record], None] | None,
) -> None:
    """Runs the training, writing logs and showing progress on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    done = training.progress
    console = Console(stderr=True, highlight=False)
    steps_log = StepLog(out / "steps.csv", done.step)
    board = TensorBoard(out / "tensorboard", done.step) if recipe.tensorboard else None
    bar = Progress(
        TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(), console=console, disable=not (progress and console.is_terminal),
    )  # fmt: skip
    per_epoch = math.ceil(len(training.feed) / recipe.accumulate)
    try:
        with bar:
            task = bar.add_task(
                "", total=recipe.epochs * per_epoch, completed=done.step, epoch=done.epoch + 1, loss=0.0
            )
            for kind, record in events:
                if kind == "step":
                    steps_log.write(record)
                    bar.update(task, completed=done.step, epoch=int(record["epoch"]), loss=record["loss"])
                else:
                    write_csv(out / "history.csv", done.history)
                    if progress:
                        console.print(
                            "  ".join(_shown(k, v) for k, v in record.items() if not DETAIL.search(k)), soft_wrap=True
                        )
                    if on_epoch is not None:
                        on_epoch(record)
                if board is not None:
                    board.write(record, done.step, kind)
    finally:
        steps_log.close()
        if board is not None:
            board.close()


def _drawn(name: str) -> bool:
    """Whether a number of an epoch belongs into a picture of curves."""
    return name.startswith("loss") or (name != "grad_norm" and not DETAIL.search(name))


def _shown(name: str, value: int | float) -> str:
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
