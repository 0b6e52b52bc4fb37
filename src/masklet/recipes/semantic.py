"""Train any semantic model on any data source: one flat recipe, one function.

recipe = SemanticRecipe(data="camvid:data/camvid", model="unet", options={"backbone": "efficientnet_lite0"})
run(recipe, "runs/street")
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from masklet.data import transforms as tf
from masklet.data.collate import collate_semantic
from masklet.data.rgbd import seen_as
from masklet.data.sources import open_source
from masklet.inference.evaluate import measure
from masklet.metrics.semantic import SemanticScore
from masklet.models import build, unknown
from masklet.parts import losses, precision
from masklet.structures import Classes, Sample
from masklet.structures.errors import UserError
from masklet.structures.files import replacing
from masklet.train.checkpoint import Record, load_last, read_notes, save_last
from masklet.train.distributed import Team, team
from masklet.train.ema import Ema
from masklet.train.feed import Feed
from masklet.train.log import StepLog, TensorBoard, write_csv
from masklet.train.loop import Training, fit
from masklet.train.optim import OPTIMIZERS, build_optimizer
from masklet.train.schedule import SCHEDULES, build_schedule
from masklet.viz.curves import confusion_picture, loss_curves
from masklet.weights import fill, read_note, save_checkpoint

LOSSES = ("cross_entropy", "ohem", "focal", "cross_entropy+dice")
WEIGHTINGS = ("none", "median_frequency", "inverse_log")
SITTING = frozenset({"workers", "device", "time_budget_minutes", "save_every", "save_seconds", "tensorboard"})


@dataclass(frozen=True)
class SemanticRecipe:
    """Every choice of a semantic training. Saved inside each checkpoint, so that a result can be repeated."""

    data: str  # kind:path, e.g. camvid:data/camvid
    val_data: str | None = None  # the same source where None
    split: str = "train"
    val_split: str = "val"  # "" validates never
    model: str = "unet"
    options: Mapping[str, Any] = field(default_factory=dict)  # of the model's builder
    start: str | None = None  # bundled name or checkpoint whose weights to start from
    fresh: str | None = None  # regex on tensor names that `start` need not have, e.g. another number of classes
    epochs: int = 60
    batch: int = 8  # over all processes
    resize: tuple[int, int] | None = None  # (height, width) of every image, in validation too; None keeps sizes
    crop: tuple[int, int] | None = (384, 384)  # (height, width) of the training crops; None trains on whole images
    scale: tuple[float, float] = (0.5, 2.0)  # random resize before the crop (Zhao et al. 2017, PSPNet, sec. 5.1)
    rotate: float = 10.0  # degrees either way (PSPNet, sec. 5.1)
    blur: float = 0.5  # probability of Gaussian blur (the authors' semseg code; ADE20K and VOC)
    flip: bool = True  # left-right, half of the time
    jitter: float = 0.25  # brightness, contrast, saturation: half of what mmsegmentation's photometric distortion does
    optimizer: str = "adamw"
    lr: float = 1e-3  # AdamW's default (Loshchilov and Hutter 2019); for SGD use 1e-2 (PSPNet, sec. 5.1)
    lr_factors: Mapping[str, float] = field(default_factory=dict)  # regex on parameter names -> factor; 0 freezes
    weight_decay: float = 1e-2  # AdamW's default; for SGD use 1e-4 (PSPNet, sec. 5.1)
    momentum: float = 0.9  # of SGD
    schedule: str = "poly"  # power 0.9 (PSPNet, sec. 5.1)
    warm_up_epochs: float = 1.0  # linear (Goyal et al. 2017, sec. 2.2, take five of ninety)
    loss: str = "cross_entropy"
    class_weights: str | tuple[float, ...] = "none"  # SegNet: "median_frequency" (Eigen, Fergus 2015, sec. 6.3.2)
    smoothing: float = 0.0  # label smoothing of cross entropy
    ohem_share: float = 0.2  # of the pixels that count at least (mmsegmentation: 100,000 of a 512x1024 crop)
    accumulate: int = 1  # batches per optimizer step
    clip: float | None = 5.0  # largest gradient norm; a guard against single bad batches
    ema: float = 0.999  # decay of averaged weights; 0 keeps none
    precision: str = "auto"  # "fp32", "bf16", or bf16 where the processor gains from it
    monitor: str = "miou"
    validate_every: int = 1  # epochs
    patience: int = 0  # validations without improvement before stopping; 0 never stops
    seed: int = 0
    workers: int = 1  # threads that prepare batches; the batches do not depend on it
    device: str = "auto"
    time_budget_minutes: float | None = None  # stop here, resumable
    save_every: int = 0  # steps between saves of the full state, besides each epoch's
    save_seconds: float = 120.0  # and at least this often
    tensorboard: bool = False

    def __post_init__(self) -> None:
        checks: list[tuple[str, bool, str]] = [
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("accumulate", self.accumulate >= 1, "at least 1"),
            ("validate_every", self.validate_every >= 1, "at least 1"),
            ("workers", self.workers >= 0, "0 or more"),
            ("seed", self.seed >= 0, "0 or more"),
            ("lr", self.lr > 0, "above 0"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("clip", self.clip is None or self.clip > 0, "above 0, or None"),
            ("ema", 0 <= self.ema < 1, "in [0, 1), for example 0.999"),
            ("smoothing", 0 <= self.smoothing < 1, "in [0, 1)"),
            ("blur", 0 <= self.blur <= 1, "a probability in [0, 1]"),
            ("scale", len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1], "(low, high) with 0 < low <= high"),
            ("crop", self.crop is None or (len(self.crop) == 2 and min(self.crop) >= 1), "(height, width) in pixels"),
            (
                "resize",
                self.resize is None or (len(self.resize) == 2 and min(self.resize) >= 1),
                "(height, width) in pixels",
            ),
        ]
        for name, good, wanted in checks:
            if not good:
                raise UserError(f"{name} is {getattr(self, name)!r}", hint=f"it must be {wanted}")
        choices: list[tuple[str, Iterable[str]]] = [
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("loss", LOSSES),
            ("precision", ("auto", "fp32", "bf16")),
        ]
        if isinstance(self.class_weights, str):
            choices.append(("class_weights", WEIGHTINGS))
        for name, accepted in choices:
            if getattr(self, name) not in accepted:
                raise UserError(f"unknown {name} {getattr(self, name)!r}", hint=f"choose from {', '.join(accepted)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SemanticRecipe:
        """A recipe from plain values, as in a JSON file; a misspelt key is answered with the nearest name."""
        names = [f.name for f in fields(cls)]
        for key in values:
            if key not in names:
                near = get_close_matches(key, names, n=1, cutoff=0.0)[0]
                raise UserError(f"a recipe has no {key!r}", hint=f"did you mean {near!r}?")
        if "data" not in values:
            raise UserError("the recipe does not say which data to train on", hint="give data=kind:path")
        return cls(**{f.name: _fitted(f.name, str(f.type), values[f.name]) for f in fields(cls) if f.name in values})

    def override(self, words: Sequence[str]) -> SemanticRecipe:
        """This recipe with `key=value` words applied; values are JSON, or plain text where they are not."""
        values: dict[str, Any] = {}
        for word in words:
            key, equals, text = word.partition("=")
            if not equals:
                raise UserError(f"{word!r} is not key=value")
            try:
                values[key] = json.loads(text)
            except json.JSONDecodeError:
                values[key] = text
        return SemanticRecipe.from_dict({**{f.name: getattr(self, f.name) for f in fields(self)}, **values})


def _fitted(name: str, kind: str, value: Any) -> Any:
    """A value from JSON or a command line as a field annotated `kind` takes it, or an error that says what it takes."""
    kinds = re.sub(r"\[[^]]*\]", "", kind).split(" | ")
    if isinstance(value, list | tuple) and "tuple" in kinds and all(type(v) in (int, float) for v in value):
        return tuple(map(float, value)) if "tuple[float" in kind else tuple(value)
    if isinstance(value, Mapping) and kind == "Mapping[str, float]":
        return {key: _fitted(f"{name}[{key!r}]", "float", factor) for key, factor in value.items()}
    if type(value) is int and "float" in kinds:
        return float(value)
    types = {"int": int, "float": float, "str": str, "bool": bool, "None": type(None), "Mapping": Mapping}
    if not any(isinstance(value, types[k]) and (k == "bool") == isinstance(value, bool) for k in kinds if k in types):
        said = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "None": "null"}
        more = {"tuple": "a list such as [256,256]", "Mapping": 'an object such as {"key": 1}'}
        raise UserError(f"{name} is {value!r}", hint=f"give {' or '.join((said | more)[k] for k in kinds)}")
    return value


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


def augmentation(recipe: SemanticRecipe) -> tf.Compose:
    """Random scale, rotation, crop, flip, colour and blur, as much of it as the recipe asks for."""
    steps: list[tf.Transform | None] = [
        tf.Resize(recipe.resize) if recipe.resize else None,
        tf.RandomScale(recipe.scale) if recipe.scale != (1.0, 1.0) else None,
        tf.RandomRotate(recipe.rotate) if recipe.rotate else None,
        tf.RandomCrop(recipe.crop) if recipe.crop else None,
        tf.RandomFlip() if recipe.flip else None,
        tf.ColorJitter(recipe.jitter, recipe.jitter, recipe.jitter) if recipe.jitter else None,
        tf.RandomBlur(p=recipe.blur) if recipe.blur else None,
    ]
    return tf.Compose([step for step in steps if step is not None])


class Resized(Sequence[Sample]):
    """A data set whose every sample is resized to one size."""

    def __init__(self, source: Any, size: tuple[int, int]):
        self.source, self.size, self.resize = source, size, tf.Resize(size)
        self.classes, self.name, self.split = source.classes, source.name, source.split

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        return self.resize(self.source[index])

    def seeing(self, depth_as: str | None) -> Resized:
        """The same with the depth as a model wants it, made before the resizing, after which the camera is another."""
        return Resized(seen_as(self.source, depth_as), self.size)


class SemanticStep(nn.Module):
    """The model's loss as an ordinary module, which is what several processes can share."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "b c h w"], targets: Int[Tensor, "b h w"]) -> dict[str, Tensor]:
        return self.model.loss(images, targets)  # type: ignore[operator]


def class_weights(source: Sequence[Sample], classes: Classes, how: str | Sequence[float]) -> Float[Tensor, " k"] | None:
    """Weights of the classes in the loss, from their share of the pixels, or as given; mean 1.

    median_frequency: median(f) / f with f the share among the images that show the class (Eigen and Fergus 2015,
    sec. 6.3.2). inverse_log: 1 / ln(1.02 + share) (ENet, Paszke et al. 2016, sec. 5.2).
    """
    if isinstance(how, str) and how == "none":
        return None
    if not isinstance(how, str):
        if len(how) != len(classes):
            raise UserError(f"{len(how)} class weights for {len(classes)} classes", hint=f"one each: {classes.names}")
        return torch.tensor(list(how), dtype=torch.float32)
    pixels, shown = torch.zeros(256, dtype=torch.float64), torch.zeros(256, dtype=torch.float64)
    for i in range(len(source)):
        semantic = source[i].semantic
        if semantic is None:
            raise UserError(f"{source[i].name} has no label map", hint="masklet data check finds all such files")
        counts = torch.bincount(semantic[semantic != classes.ignore].flatten().long(), minlength=256).double()
        pixels += counts
        shown += counts.sum() * (counts > 0)
    pixels, shown = pixels[: len(classes)], shown[: len(classes)]
    if how == "median_frequency":
        share = pixels / shown.clamp(min=1)
        weights = share[share > 0].median() / share.clamp(min=1e-12)
    else:
        weights = 1 / torch.log(1.02 + pixels / pixels.sum())
    weights[pixels == 0] = 0
    return (weights / weights[pixels > 0].mean()).float()


def build_criterion(recipe: SemanticRecipe, weight: Tensor | None) -> Callable[..., Tensor] | None:
    """The recipe's loss on (logits, targets, ignore=...); None leaves plain cross entropy, the models' own."""
    if recipe.loss == "cross_entropy" and weight is None and not recipe.smoothing:
        return None

    def cross_entropy(logits: Tensor, targets: Tensor, ignore: int = 255) -> Tensor:
        return losses.cross_entropy(logits, targets, ignore, weight, recipe.smoothing)

    def ohem(logits: Tensor, targets: Tensor, ignore: int = 255) -> Tensor:
        kept = int(recipe.ohem_share * targets[0].numel())
        return losses.ohem_cross_entropy(logits, targets, min_kept=kept, ignore=ignore, weight=weight)

    def focal(logits: Tensor, targets: Tensor, ignore: int = 255) -> Tensor:
        return losses.focal(logits, targets, ignore, weight=weight)

    def both(logits: Tensor, targets: Tensor, ignore: int = 255) -> Tensor:
        return cross_entropy(logits, targets, ignore) + losses.dice(logits, targets, ignore)

    return {"cross_entropy": cross_entropy, "ohem": ohem, "focal": focal, "cross_entropy+dice": both}[recipe.loss]


def run(
    recipe: SemanticRecipe,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: bool = True,
    on_epoch: Callable[[Record], None] | None = None,
) -> Result:
    """Trains as `recipe` says and writes into `out`:

    best.safetensors (for `masklet.load`), last.safetensors (full state: `resume=True` continues bit for bit, even
    after kill -9), history.csv, steps.csv, recipe.json, curves.png and confusion.png. `progress` goes to stderr.
    """
    out = Path(out)
    last, best = out / "last.safetensors", out / "best.safetensors"
    plain = json.loads(json.dumps(asdict(recipe)))
    if last.exists():
        _check_resume(last, plain, resume)
    source = open_source(recipe.data, split=recipe.split)
    val: Any = open_source(recipe.val_data or recipe.data, split=recipe.val_split) if recipe.val_split else None
    if val is not None and val.classes.names != source.classes.names:
        raise UserError(f"training has classes {source.classes.names}, validation {val.classes.names}")
    if val is not None and recipe.monitor not in (known := SemanticScore(val.classes).compute()):
        raise unknown("score to monitor", recipe.monitor, known, "scores")
    if val is not None and recipe.resize:
        val = Resized(val, recipe.resize)
    out.mkdir(parents=True, exist_ok=True)
    with team(recipe.device) as crew:
        training = prepare(recipe, source, crew)
        if last.exists():
            training.progress = load_last(last, training.model, training.optimizer, training.ema)
        tables: list[Tensor] = []

        def validate(model: nn.Module) -> Record:
            score = measure(model, val, precision=recipe.precision)
            tables[:] = [score.confusion]
            return {**score.compute()}

        def keep_last() -> None:
            save_last(last, training.model, training.optimizer, training.progress, training.ema, plain)

        def keep_best(scores: Mapping[str, int | float]) -> None:
            note = {"recipe": plain, "scores": dict(scores), "epoch": training.progress.epoch}
            save_checkpoint(best, training.averaged, note)
            if tables and find_spec("matplotlib"):
                save_picture(confusion_picture(tables[0], source.classes), out / "confusion.png")

        events = fit(
            training,
            epochs=recipe.epochs,
            validate=validate if val is not None else None,
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
            if val is None or not best.exists():
                keep_best({})
            if training.progress.history and find_spec("matplotlib"):
                history = [{k: v for k, v in r.items() if k != "grad_norm"} for r in training.progress.history]
                save_picture(loss_curves(history), out / "curves.png")
        else:
            for _ in events:
                pass
    done = training.progress
    scores = (read_note(best) or {}).get("scores", {}) if best.exists() else {}
    return Result(out, best, scores, done.best_epoch, done.epoch, done.seconds, done.finished, done.history)


def prepare(recipe: SemanticRecipe, source: Any, crew: Team) -> Training:
    """Model, optimizer, schedule, feed and average for `recipe`, at the start."""
    torch.manual_seed(recipe.seed)
    model: Any = build(recipe.model, classes=source.classes, **recipe.options)
    if recipe.start is not None:
        fill(model, recipe.start, fresh=recipe.fresh)
    model = precision.channels_last(model.to(crew.device))
    source = seen_as(source, getattr(model, "depth_as", None))
    weight = class_weights(source, source.classes, recipe.class_weights)
    criterion = build_criterion(recipe, None if weight is None else weight.to(crew.device))
    if criterion is not None:
        model.criterion = criterion
    feed = Feed(
        source,
        collate_semantic,
        augmentation(recipe),
        batch=recipe.batch,
        seed=recipe.seed,
        workers=recipe.workers,
        rank=crew.rank,
        size=crew.size,
    )
    steps = math.ceil(len(feed) / recipe.accumulate)
    return Training(
        model=model,
        step=crew.wrap(SemanticStep(model)),
        feed=feed,
        optimizer=build_optimizer(
            recipe.optimizer, model, recipe.lr, recipe.weight_decay, recipe.momentum, recipe.lr_factors
        ),
        schedule=build_schedule(recipe.schedule, recipe.epochs * steps, round(recipe.warm_up_epochs * steps)),
        ema=Ema(model, recipe.ema) if recipe.ema else None,
        team=crew,
    )


def autocast(recipe: SemanticRecipe, device: torch.device) -> AbstractContextManager[Any]:
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
    recipe: SemanticRecipe,
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
                            "  ".join(_shown(k, v) for k, v in record.items() if "/" not in k), soft_wrap=True
                        )
                    if on_epoch is not None:
                        on_epoch(record)
                if board is not None:
                    board.write(record, done.step, kind)
    finally:
        steps_log.close()
        if board is not None:
            board.close()


def _shown(name: str, value: int | float) -> str:
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


__all__ = ["Result", "SemanticRecipe", "prepare", "replace", "run"]
