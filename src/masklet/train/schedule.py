"""Learning-rate schedules as pure functions of the step, so resuming needs nothing but the step number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch

from masklet.models import unknown

Schedule = Callable[[int], float]  # optimizer step, counted from 0 -> factor on every group's learning rate


def constant(total: int) -> Schedule:
    """No change."""
    return lambda step: 1.0


def poly(total: int, power: float = 0.9) -> Schedule:
    """(1 - step / total) ** 0.9, the schedule of DeepLab and PSPNet (Zhao et al. 2017, sec. 5.1)."""
    return lambda step: max(0.0, 1 - step / total) ** power


def cosine(total: int, floor: float = 0.0) -> Schedule:
    """Half a cosine wave from 1 to `floor` (Loshchilov and Hutter 2017)."""
    return lambda step: floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, step / total))) / 2


def multi_step(total: int, milestones: Sequence[float] = (2 / 3, 8 / 9), factor: float = 0.1) -> Schedule:
    """Ten times less at two thirds and again at eight ninths of the way, the schedule of COCO's detectors.

    detectron2's "1x" is 90,000 steps with milestones at 60,000 and 80,000 (He et al. 2017, appendix).
    """
    return lambda step: factor ** sum(step >= milestone * total for milestone in milestones)


def one_cycle(total: int, rise: float = 0.3, start: float = 1 / 25, end: float = 1e-4) -> Schedule:
    """Up from `start` to 1 during the first `rise` of the steps, then down to `start * end`, both along cosines.

    Smith and Topin 2018 with the numbers of torch's OneCycleLR; momentum is left alone.
    """
    peak = max(1.0, rise * total)

    def factor(step: int) -> float:
        if step < peak:
            return start + (1 - start) * (1 - math.cos(math.pi * step / peak)) / 2
        down = min(1.0, (step - peak) / max(1.0, total - peak))
        return start * end + (1 - start * end) * (1 + math.cos(math.pi * down)) / 2

    return factor


SCHEDULES: Mapping[str, Callable[[int], Schedule]] = MappingProxyType(
    {f.__name__: f for f in (poly, cosine, one_cycle, multi_step, constant)}
)


def warm_up(schedule: Schedule, steps: int, start: float = 1e-3) -> Schedule:
    """`schedule` times a straight line from `start` to 1 over the first `steps` (Goyal et al. 2017, sec. 2.2)."""
    return lambda step: schedule(step) * (start + (1 - start) * step / steps if step < steps else 1.0)


def build_schedule(name: str, total: int, warm_up_steps: int = 0) -> Schedule:
    """The schedule called `name` over `total` steps, after a linear warm-up where `warm_up_steps` > 0."""
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    schedule = SCHEDULES[name](max(1, total))
    return warm_up(schedule, warm_up_steps) if warm_up_steps else schedule


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets each group's learning rate to `factor` times the one it started with."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
