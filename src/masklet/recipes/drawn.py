"""Detectors learn drawn pictures in a few minutes of one core: for tests, and to see what a part of them is worth.

recipe = DrawnRecipe(steps=200, seed=1)
model = taught(recipe)
scores(model, recipe)  # {"box": {"ap": ..., "ap50": ..., ...}, "mask": {...}}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from masklet.data.collate import collate_instances
from masklet.data.synthetic import Synthetic, synthetic
from masklet.metrics.ap import AveragePrecision
from masklet.models import build
from masklet.ops.roi import roi_align
from masklet.parts.proposals import Budget
from masklet.parts.pyramid import PyramidPooler
from masklet.parts.sampling import RandomSampler
from masklet.structures.errors import UserError

SMALL: Mapping[str, Any] = MappingProxyType(
    {
        "backbone": "efficientnet_lite0",
        "weights": "imagenet",
        "short_side": 0,  # pictures stay as they are
        "anchor_sizes": (16, 28, 40, 56, 80),
        "channels": 64,
        "hidden": 256,
    }
)


@dataclass(frozen=True)
class DrawnRecipe:
    """Every choice of such a training. Each picture is seen once; numbers of proposals are for a handful of objects."""

    model: str = "mask_rcnn"
    data: str = "shapes3"  # of `data.synthetic`
    options: Mapping[str, Any] = field(default_factory=dict)  # of the model, besides SMALL
    side: int = 112
    steps: int = 240
    batch: int = 4
    lr: float = 1e-3
    seed: int = 0
    frozen: str = ""  # regex on the names of parameters that stay as they are
    rois: int = 64  # of a picture, from which the second stage learns; as many anchors
    pictures: int = 60  # to score


def taught(recipe: DrawnRecipe, change: Callable[[Any], None] = lambda model: None) -> Any:
    """The model of a recipe, trained; `change` exchanges parts of it first."""
    torch.manual_seed(recipe.seed)
    count = recipe.steps * recipe.batch
    train = synthetic(recipe.data, "train", recipe.side, count, recipe.seed)
    more: dict[str, Any] = {} if recipe.model == "keypoint_rcnn" else {"mask_channels": 64}
    model = build(recipe.model, classes=train.classes, **{**SMALL, **more, **recipe.options})
    change(model)
    model.rpn.budgets[True] = Budget(300, 150)
    for part in model.modules():
        if hasattr(part, "sampler"):
            part.sampler = RandomSampler(recipe.rois, 0.5 if part is model.rpn else 0.25)
        pooler = getattr(part, "pool", None)
        if isinstance(pooler, PyramidPooler) and pooler.pool is roi_align:  # as many samples as cells take longer
            part.pool = replace(pooler, pool=partial(roi_align, samples=2))
    for name, parameter in model.named_parameters():
        if re.fullmatch(recipe.frozen, name):
            parameter.requires_grad_(False)
    learn(model.train(), train, recipe)
    return model.eval()


def learn(model: Any, train: Synthetic, recipe: DrawnRecipe) -> None:
    """One pass over the pictures: AdamW, a rate that rises and falls once (Smith and Topin, 2018)."""
    optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, recipe.steps, pct_start=0.15)
    for step in range(recipe.steps):
        first = recipe.batch * step
        losses = model.loss(*collate_instances([train[i] for i in range(first, first + recipe.batch)]))
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()


def scores(
    model: Any, recipe: DrawnRecipe, kinds: Sequence[str] = ("box", "mask"), **options: Any
) -> dict[str, dict[str, float]]:
    """COCO's AP and recall, of each kind, on pictures that the model has not seen; `options` of the metric."""
    held_out = synthetic(recipe.data, "val", recipe.side, recipe.pictures)
    metrics = {kind: AveragePrecision(held_out.classes, kind, **options) for kind in kinds}
    for i, sample in enumerate(held_out):
        found, truth = model.predict(sample.image), sample.instances
        if truth is None:
            raise UserError(f"{recipe.data} has no objects", hint="choose drawn pictures with objects, shapes3 or rods")
        for metric in metrics.values():
            metric.update(found, truth, image=i)
    return {kind: metric.compute() for kind, metric in metrics.items()}
