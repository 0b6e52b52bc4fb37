"""Train a model that follows what is pointed at: images and clips in turns, prompted and corrected by a machine.

recipe = PromptableRecipe(data={"davis:DAVIS": 1.0, "pets:pets": 0.5}, options={"backbone": "efficientnet_lite0"})
run(recipe, "runs/click")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qsl

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from masklet.data.images import to_float
from masklet.data.mixture import Mixture, Share
from masklet.data.moving import MovingShapes
from masklet.data.samplers import generator_of
from masklet.data.sources import open_source
from masklet.inference.evaluate_clips import measure_clips
from masklet.models.prompted_training import Prompting
from masklet.parts.lora import adapt
from masklet.recipes import plans
from masklet.recipes.running import Record, Result, assemble, carry_out, initial_model
from masklet.structures import Classes, Clip
from masklet.structures.errors import UserError
from masklet.train.distributed import Team
from masklet.train.feed import Batch, ahead_of
from masklet.train.loop import Training
from masklet.train.optim import OPTIMIZERS
from masklet.train.schedule import SCHEDULES

__all__ = ["TASK", "ClipFeed", "PromptableRecipe", "mixed", "prepare", "run"]

TASK = "promptable"  # of the systems that this recipe is for

DRAWN = "moving"  # the name of drawn clips in a recipe's data


@runtime_checkable
class Clips(Protocol):
    """What clips are drawn from."""

    def draw(self, frames: int, generator: torch.Generator) -> Clip: ...


@dataclass(frozen=True)
class PromptableRecipe:
    """Every choice of a training with prompts. Saved inside each checkpoint, so that a result can be repeated."""

    # kind:path of data with masks -> how often it is drawn; options follow a question mark, as in
    # "davis:DAVIS?split=all&without=dog,libby&whole=0.2" (see Share); "moving" draws shapes
    data: Mapping[str, float]
    val_data: str = DRAWN  # clips that are followed from a click and from the mask of the first frame
    model: str = "sam2"
    options: Mapping[str, Any] = field(default_factory=dict)  # of the model's builder
    start: str | None = None  # bundled name or checkpoint whose weights to start from
    fresh: str | None = None  # regex on tensor names that `start` need not have
    epochs: int = 10
    steps: int = 200  # of an epoch
    images: int = 16  # in an image batch; those and batches of clips take turns
    clips: int = 4  # in a batch of clips
    frames: int = 8  # of a clip (Ravi et al. 2024, appendix D.2)
    objects: int = 3  # most of a clip
    points: float = 0.5  # probability that a clip is prompted by points and not by true masks
    boxes: float = 0.5  # of a box instead of a click
    prompted: int = 2  # most frames with a first prompt
    corrected: int = 2  # most frames that are corrected
    rounds: int = 7  # clicks of a correction
    central: float = 0.0  # probability that clicks fall where evaluations click, and not at random
    optimizer: str = "adamw"
    lr: float = 1e-3
    lr_factors: Mapping[str, float] = field(default_factory=dict)  # regex on parameter names -> factor; 0 freezes
    lora: Mapping[str, int] = field(default_factory=dict)  # regex on layer names -> rank of what is trained beside them
    trained: str | None = None  # with lora: regex on the parameters that are trained themselves; the rest is frozen
    weight_decay: float = 1e-2
    momentum: float = 0.9  # of SGD
    schedule: str = "cosine"
    warm_up_steps: int = 100
    accumulate: int = 1  # batches per optimizer step
    clip: float | None = 1.0  # largest gradient norm
    ema: float = 0.0  # decay of averaged weights; 0 keeps none
    precision: str = "auto"  # "fp32", "bf16", or bf16 where the processor gains from it
    monitor: str = "jf"
    validate_every: int = 1  # epochs
    val_limit: int = 20  # clips
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
            ("data", bool(self.data) and all(weight > 0 for weight in self.data.values()), "sources with weights"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("steps", self.steps >= 1, "at least 1"),
            ("images", self.images >= 1, "at least 1"),
            ("clips", self.clips >= 0, "0 (only images) or more"),
            ("frames", self.frames >= 3, "at least 3, for the first and the last do not count"),
            ("rounds", self.rounds >= 0, "0 or more"),
            ("lr", self.lr > 0, "above 0"),
            ("seed", self.seed >= 0, "0 or more"),
            ("workers", self.workers >= 0, "0 or more"),
            ("trained", self.trained is None or bool(self.lora), "left out without lora; lr_factors of 0 freeze parts"),
        ]
        choices: list[tuple[str, Any]] = [
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", ("auto", "fp32", "bf16")),
        ]
        plans.check(self, checks, choices)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PromptableRecipe:
        """A recipe from plain values, as in a JSON file; data may be one text (see `mixed`)."""
        data = values.get("data")
        return plans.from_dict(cls, {**values, "data": mixed(data)} if isinstance(data, str) else values)

    def override(self, words: Sequence[str]) -> PromptableRecipe:
        """This recipe with `key=value` words applied; values are JSON, or plain text where they are not."""
        return plans.override(self, words)

    @property
    def prompting(self) -> Prompting:
        return Prompting(self.points, self.boxes, self.prompted, self.corrected, self.rounds, central=self.central)


@dataclass(frozen=True)
class ClipFeed:
    """Batches of images and of clips in turns; batch `i` of an epoch depends on (seed, epoch, i) only.

    Without `clips` in a batch all batches are of images.
    """

    source: Clips
    images: int
    clips: int
    frames: int
    steps: int
    seed: int = 0
    workers: int = 1

    def __len__(self) -> int:
        return self.steps

    def load(self, epoch: int, number: int) -> Batch:
        generator = generator_of(self.seed, epoch, number)
        moving = self.clips > 0 and number % 2 == 1
        count, frames = (self.clips, self.frames) if moving else (self.images, 1)
        drawn = [self.source.draw(frames, generator) for _ in range(count)]
        return Batch(collate_clips(drawn), tuple(clip.name for clip in drawn))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on."""
        yield from ahead_of(lambda number: self.load(epoch, number), range(start, self.steps), self.workers)


def collate_clips(
    clips: Sequence[Clip],
) -> tuple[Float[Tensor, "b t 3 h w"], list[Bool[Tensor, "_k t h w"]], Bool[Tensor, "b t"]]:
    """Frames in 0..1, the masks of each clip, and which frames have any."""
    frames = torch.stack([to_float(clip.frames) for clip in clips])
    known = [torch.ones(len(clip), dtype=torch.bool) if clip.known is None else clip.known for clip in clips]
    return frames, [clip.masks for clip in clips], torch.stack(known)


class PromptableStep(nn.Module):
    """The model's loss as an ordinary module, which is what several processes can share."""

    def __init__(self, model: nn.Module, how: Prompting):
        super().__init__()
        self.model, self.how = model, how

    def forward(
        self, frames: Float[Tensor, "b t 3 h w"], masks: Sequence[Bool[Tensor, "_k t h w"]], known: Bool[Tensor, "b t"]
    ) -> dict[str, Tensor]:
        return self.model.loss(frames, masks, self.how, known)  # type: ignore[operator]


def run(
    recipe: PromptableRecipe,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: bool = True,
    on_epoch: Callable[[Record], None] | None = None,
) -> Result:
    """Trains as `recipe` says and writes into `out` what `masklet.recipes.running.carry_out` does."""
    side = int(recipe.options.get("side", 1024))
    clips = validation_clips(recipe, side)

    def validate(model: nn.Module) -> Record:
        return {**measure_clips(model, clips)}

    return carry_out(
        recipe,
        Path(out),
        lambda crew: prepare(recipe, crew),
        validate if clips else None,
        resume=resume,
        progress=progress,
        on_epoch=on_epoch,
    )


def prepare(recipe: PromptableRecipe, crew: Team) -> Training:
    """Model, optimizer, schedule, feed and average for `recipe`, at the start."""
    model = initial_model(recipe, Classes(("object",)), crew.device)
    if recipe.lora:
        adapt(model, recipe.lora, recipe.trained)
    source = clips_of(recipe, int(recipe.options.get("side", 1024)))
    feed = ClipFeed(
        source, recipe.images, recipe.clips, recipe.frames, recipe.steps, recipe.seed + crew.rank, recipe.workers
    )
    return assemble(recipe, model, PromptableStep(model, recipe.prompting), feed, recipe.warm_up_steps, crew)


def mixed(text: str) -> dict[str, float]:
    """Data and their weights from one text: "davis:DAVIS * 1.6 + pets:pets"."""
    out = {}
    for part in text.split(" + "):
        source, star, weight = part.rpartition(" * ")
        try:
            out[(source if star else part).strip()] = float(weight) if star else 1.0
        except ValueError:
            raise UserError(
                f"the weight of {source} is {weight!r}", hint='write "davis:DAVIS * 1.6 + pets:pets"'
            ) from None
    return out


def clips_of(recipe: PromptableRecipe, side: int) -> Clips:
    """What the recipe's data draw clips from."""
    if set(recipe.data) == {DRAWN}:
        return MovingShapes((side, side), recipe.frames, most=recipe.objects)
    if DRAWN in recipe.data:
        raise UserError("drawn clips are not mixed with others", hint="give kind:path sources, or moving alone")
    shares = [_share(name, "train", weight) for name, weight in recipe.data.items()]
    return Mixture(shares, (side, side), recipe.objects)


def validation_clips(recipe: PromptableRecipe, side: int) -> Sequence[Clip]:
    """The first `val_limit` clips that are held out."""
    if recipe.val_data == DRAWN:
        return MovingShapes((side, side), recipe.frames, "val", recipe.val_limit, recipe.objects)
    mixture = Mixture([_share(recipe.val_data, "val")], (side, side), recipe.objects, pasted=0.0)
    return [mixture.draw(recipe.frames, generator_of(recipe.seed, i)) for i in range(recipe.val_limit)]


def _share(name: str, split: str, weight: float = 1.0) -> Share:
    text, _, rest = name.partition("?")
    options = {"split": split, **dict(parse_qsl(rest, strict_parsing=bool(rest)))}
    whole = float(options.pop("whole", 0.5))
    source: Any = open_source(text, **options)
    return Share(source, weight, whole)
