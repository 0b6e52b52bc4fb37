"""Train any semantic model on any data source: one flat recipe, one function.

recipe = SemanticRecipe(data="camvid:data/camvid", model="unet", options={"backbone": "efficientnet_lite0"})
run(recipe, "runs/street")
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from masklet.data import transforms as tf
from masklet.data.collate import collate_semantic
from masklet.data.rgbd import seen_as
from masklet.inference.evaluate import measure
from masklet.metrics.semantic import SemanticScore
from masklet.models import unknown
from masklet.parts import losses
from masklet.recipes import plans
from masklet.recipes.running import Record, Result, assemble, carry_out, initial_model, save_picture, sources_of
from masklet.structures import Classes, Sample
from masklet.structures.errors import UserError
from masklet.train.distributed import Team
from masklet.train.feed import Feed
from masklet.train.loop import Training
from masklet.train.optim import OPTIMIZERS
from masklet.train.schedule import SCHEDULES
from masklet.viz.curves import confusion_picture

LOSSES = ("cross_entropy", "ohem", "focal", "cross_entropy+dice")
WEIGHTINGS = ("none", "median_frequency", "inverse_log")


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
        checks = [
            *plans.loop_checks(self),
            ("smoothing", 0 <= self.smoothing < 1, "in [0, 1)"),
            ("resize", self.resize is None or plans.is_size(self.resize), "(height, width) in pixels"),
        ]
        choices: list[tuple[str, Iterable[str]]] = [
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("loss", LOSSES),
            ("precision", ("auto", "fp32", "bf16")),
        ]
        if isinstance(self.class_weights, str):
            choices.append(("class_weights", WEIGHTINGS))
        plans.check(self, checks, choices)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SemanticRecipe:
        """A recipe from plain values, as in a JSON file; a misspelt key is answered with the nearest name."""
        return plans.from_dict(cls, values)

    def override(self, words: Sequence[str]) -> SemanticRecipe:
        """This recipe with `key=value` words applied; values are JSON, or plain text where they are not."""
        return plans.override(self, words)


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
    source, val = sources_of(recipe)
    if val is not None and recipe.monitor not in (known := SemanticScore(val.classes).compute()):
        raise unknown("score to monitor", recipe.monitor, known, "scores")
    if val is not None and recipe.resize:
        val = Resized(val, recipe.resize)
    tables: list[Tensor] = []

    def validate(model: nn.Module) -> Record:
        score = measure(model, val, precision=recipe.precision)
        tables[:] = [score.confusion]
        return {**score.compute()}

    def draw_confusion() -> None:
        if tables and find_spec("matplotlib"):
            save_picture(confusion_picture(tables[0], source.classes), out / "confusion.png")

    return carry_out(
        recipe,
        out,
        lambda crew: prepare(recipe, source, crew),
        validate if val is not None else None,
        resume=resume,
        progress=progress,
        on_epoch=on_epoch,
        on_best=draw_confusion,
    )


def prepare(recipe: SemanticRecipe, source: Any, crew: Team) -> Training:
    """Model, optimizer, schedule, feed and average for `recipe`, at the start."""
    model = initial_model(recipe, source.classes, crew.device)
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
    return assemble(recipe, model, SemanticStep(model), feed, round(recipe.warm_up_epochs * steps), crew)


__all__ = ["Record", "Result", "SemanticRecipe", "prepare", "run", "save_picture"]
