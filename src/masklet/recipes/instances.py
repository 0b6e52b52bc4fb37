"""Train any model that finds objects on any data with objects: one flat recipe, one function.

recipe = InstanceRecipe(data="coco:annotations/train.json", model="mask_rcnn")
run(recipe, "runs/parts")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from masklet.data import transforms as tf
from masklet.data.collate import collate_instances, collate_surroundings
from masklet.data.copy_paste import CopyPaste
from masklet.data.framing import RandomShortSide, RandomTurn, RandomWindow, by_size, evenly
from masklet.inference.evaluate_objects import ObjectScores, measure_objects
from masklet.models import MODELS, list_models, unknown
from masklet.parts.box_heads import BoxBranch
from masklet.parts.sampling import RandomSampler
from masklet.recipes import plans
from masklet.recipes.running import Record, Result, assemble, carry_out, initial_model, sources_of
from masklet.structures import Instances
from masklet.structures.errors import UserError
from masklet.train.distributed import Team
from masklet.train.feed import Feed
from masklet.train.loop import Training
from masklet.train.optim import OPTIMIZERS
from masklet.train.schedule import SCHEDULES

__all__ = ["PRESETS", "InstanceRecipe", "Result", "prepare", "run"]

FRAMINGS = ("window", "fit", "short_side")
TASKS = ("detection", "instance", "keypoints")


@dataclass(frozen=True)
class InstanceRecipe:
    """Every choice of a training of objects. Saved inside each checkpoint, so that a result can be repeated.

    `framing` says what a model sees of a picture. "window": `crop` after the picture's pixels grew by a factor drawn
    from `scale`. "fit": the same, where factor 1 means that the picture just fits into `crop` (large-scale jitter).
    "short_side": the whole picture, its shorter side one of `short_sides`, its longer one at most `long_side`.
    """

    data: str  # kind:path, e.g. coco:annotations.json
    val_data: str | None = None  # the same source where None
    split: str = "train"
    val_split: str = "val"  # "" validates never
    model: str = "mask_rcnn"
    options: Mapping[str, Any] = field(default_factory=dict)  # of the model's builder
    start: str | None = None  # bundled name or checkpoint whose weights to start from
    fresh: str | None = None  # regex on tensor names that `start` need not have, e.g. another number of classes
    epochs: int = 60
    batch: int = 4  # over all processes
    framing: str = "fit"
    crop: tuple[int, int] | None = (512, 512)  # (height, width)
    scale: tuple[float, float] = (0.5, 2.0)  # the paper's large-scale jitter is (0.1, 2.0) (Ghiasi et al. 2021)
    aim: float = 0.5  # probability that a window is laid over an object, not just anywhere
    short_sides: tuple[int, ...] = (640, 672, 704, 736, 768, 800)  # detectron2's
    long_side: int = 1333
    flip: bool = True  # left-right, half of the time
    turns: bool = False  # quarter turns and mirrors instead: pictures that have no up and down
    jitter: float = 0.3  # brightness and contrast
    saturation: float = 0.3  # from grey (1.0) to as it is (0.0), and as much more colourful
    hue: float = 0.03  # share of the colour circle
    blur: float = 0.0  # probability of Gaussian blur
    copy_paste: float = 0.0  # probability that objects of another picture are laid over (Ghiasi et al. 2021)
    spread: int = 0  # show large pictures more often: once for each so many pixels of a side; 0 shows each once
    rois: int = 512  # proposals of a picture that the second stage learns from (Lin et al. 2017, sec. 5.2)
    optimizer: str = "adamw"
    lr: float = 4e-4  # for batches of 4 pictures; SGD of COCO's "1x" has .02 for 16
    lr_factors: Mapping[str, float] = field(default_factory=dict)  # regex on parameter names -> factor; 0 freezes
    weight_decay: float = 5e-2  # AdamW in detectors (Liu et al. 2021, Swin); for SGD use 1e-4
    momentum: float = 0.9  # of SGD
    schedule: str = "cosine"
    warm_up_steps: int = 200  # linear; detectron2 takes 1000 of 90,000
    accumulate: int = 1  # batches per optimizer step
    clip: float | None = 5.0  # largest gradient norm; a guard against single bad batches
    ema: float = 0.999  # decay of averaged weights; 0 keeps none
    precision: str = "auto"  # "fp32", "bf16", or bf16 where the processor gains from it
    monitor: str = "ap"
    validate_every: int = 1  # epochs
    val_limit: int = 0  # validate on so many pictures, evenly spread; 0 takes all
    patience: int = 0  # validations without improvement before stopping; 0 never stops
    seed: int = 0
    workers: int = 1  # threads that prepare batches; the batches do not depend on it
    device: str = "auto"
    time_budget_minutes: float | None = None  # stop here, resumable
    save_every: int = 0  # steps between saves of the full state, besides each epoch's
    save_seconds: float = 120.0  # and at least this often
    tensorboard: bool = False

    def __post_init__(self) -> None:
        cropped = self.crop is not None or self.framing == "short_side"
        checks = [
            *plans.loop_checks(self),
            ("crop", cropped, f"(height, width) in pixels with framing={self.framing!r}"),
            ("short_sides", bool(self.short_sides) and min(self.short_sides) >= 1, "one or more sides in pixels"),
            ("long_side", self.long_side >= max(self.short_sides, default=1), "at least the largest of short_sides"),
            ("aim", 0 <= self.aim <= 1, "a probability in [0, 1]"),
            ("copy_paste", 0 <= self.copy_paste <= 1, "a probability in [0, 1]"),
            ("spread", self.spread >= 0, "a side in pixels, or 0"),
            ("rois", self.rois >= 1, "at least 1"),
            ("warm_up_steps", self.warm_up_steps >= 0, "0 or more"),
            ("val_limit", self.val_limit >= 0, "0 or more"),
        ]
        choices: list[tuple[str, Any]] = [
            ("framing", FRAMINGS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", ("auto", "fp32", "bf16")),
        ]
        plans.check(self, checks, choices)
        if self.model in MODELS and not set(MODELS[self.model].tasks) & set(TASKS):
            able = sorted({name for task in TASKS for name in list_models(task)})
            raise UserError(f"{self.model} does not find objects", hint=f"choose from {', '.join(able)}")
        if self.copy_paste and self.framing == "short_side":
            raise UserError("copy-paste needs pictures of one size", hint='use framing="fit" or "window" with it')

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InstanceRecipe:
        """A recipe from plain values, as in a JSON file; a misspelt key is answered with the nearest name."""
        return plans.from_dict(cls, values)

    def override(self, words: Sequence[str]) -> InstanceRecipe:
        """This recipe with `key=value` words applied; values are JSON, or plain text where they are not."""
        return plans.override(self, words)


# Small data is the default. COCO's "1x" is 90,000 steps of 16 pictures, 12 epochs of its 118,000 (detectron2).
COCO_1X = InstanceRecipe(
    data="",
    epochs=12,
    batch=16,
    framing="short_side",
    crop=None,
    jitter=0.0,
    saturation=0.0,
    hue=0.0,
    optimizer="sgd",
    lr=0.02,
    weight_decay=1e-4,
    schedule="multi_step",
    warm_up_steps=1000,
    clip=None,
    ema=0.0,
)
PRESETS: Mapping[str, InstanceRecipe] = MappingProxyType(
    {"coco_1x": COCO_1X, "small_data": InstanceRecipe(data=""), "microscopy": InstanceRecipe(data="", turns=True)}
)


def augmentation(recipe: InstanceRecipe, source: Any) -> tf.Compose:
    """What the model sees of a picture: framing, mirrors, objects of other pictures, colours and blur."""
    framing: tf.Transform
    if recipe.framing == "short_side":
        framing = RandomShortSide(recipe.short_sides, recipe.long_side)
    else:
        assert recipe.crop is not None
        if recipe.framing == "window":
            framing = RandomWindow(recipe.crop, recipe.scale, recipe.aim)
        else:
            framing = tf.LargeScaleJitter(recipe.crop, recipe.scale)
    mirrored = RandomTurn() if recipe.turns else tf.RandomFlip() if recipe.flip else None
    geometry = tf.Compose([framing] if mirrored is None else [framing, mirrored])
    colours = recipe.jitter or recipe.saturation or recipe.hue
    steps: list[tf.Transform | None] = [
        geometry,
        CopyPaste(source, geometry, recipe.copy_paste) if recipe.copy_paste else None,
        tf.ColorJitter(recipe.jitter, recipe.jitter, recipe.saturation, recipe.hue) if colours else None,
        tf.RandomBlur(p=recipe.blur) if recipe.blur else None,
    ]
    return tf.Compose([step for step in steps if step is not None])


class InstanceStep(nn.Module):
    """The model's loss as an ordinary module, which is what several processes can share."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self, images: Float[Tensor, "b 3 h w"], targets: Sequence[Instances], *stuff: Int64[Tensor, "b h w"]
    ) -> dict[str, Tensor]:
        return self.model.loss(images, targets, *stuff)  # type: ignore[operator]


def run(
    recipe: InstanceRecipe,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: bool = True,
    on_epoch: Callable[[Record], None] | None = None,
) -> Result:
    """Trains as `recipe` says and writes into `out`:

    best.safetensors (for `masklet.load`), last.safetensors (full state: `resume=True` continues bit for bit, even
    after kill -9), history.csv, steps.csv, recipe.json and curves.png. `progress` goes to stderr.
    """
    source, val = sources_of(recipe)
    if not len(source) or source[0].instances is None:
        raise UserError(f"{recipe.data} has no objects", hint="train on a data set with instances")
    if val is not None:
        known = ObjectScores(val.classes).compute()
        known |= {f"{kind}_{key}": value for kind in ("box", "keypoint") for key, value in known.items()}
        if recipe.monitor not in known:
            raise unknown("score to monitor", recipe.monitor, known, "scores")
        val = evenly(val, recipe.val_limit) if recipe.val_limit else val

    def validate(model: nn.Module) -> Record:
        return {**measure_objects(model, val, precision=recipe.precision).compute()}

    return carry_out(
        recipe,
        Path(out),
        lambda crew: prepare(recipe, source, crew),
        validate if val is not None else None,
        resume=resume,
        progress=progress,
        on_epoch=on_epoch,
    )


def prepare(recipe: InstanceRecipe, source: Any, crew: Team) -> Training:
    """Model, optimizer, schedule, feed and average for `recipe`, at the start."""
    model = initial_model(recipe, source.classes, crew.device)
    for part in model.modules():
        if isinstance(part, BoxBranch) and isinstance(part.sampler, RandomSampler):
            part.sampler = replace(part.sampler, count=recipe.rois)
    feed = Feed(
        by_size(source, recipe.spread) if recipe.spread else source,
        collate_instances if getattr(model, "semantic", None) is None else collate_surroundings,
        augmentation(recipe, source),
        batch=recipe.batch,
        seed=recipe.seed,
        workers=recipe.workers,
        rank=crew.rank,
        size=crew.size,
    )
    return assemble(recipe, model, InstanceStep(model), feed, recipe.warm_up_steps, crew)
