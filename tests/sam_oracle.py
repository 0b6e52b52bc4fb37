"""Recorded outputs of SAM and SAM 2: weights by key, inputs by name, comparison in units of the standard deviation.

Their notes (`../shared/oracles/NOTES_promptable_video_matting.md`) describe another layout than `oracle.py` reads.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import oracle
from conftest import shared


def names(path: Path) -> list[tuple[str, list[int], str]]:
    """Name, shape and type of every tensor of a checkpoint; a file may nest them as the checkpoint does."""
    listed = json.loads(path.read_text())
    return listed["model"] if isinstance(listed, dict) else listed


@cache
def state_dict(system: str, keys: str, only: str = ".*") -> dict[str, Tensor]:
    """The weights that the reference ran with, remade from their names; `only` is a regular expression."""
    fill = oracle.keyfill(shared("oracles")).fill
    listed = names(shared("oracles", system, keys))
    return {key: torch.from_numpy(fill(key, tuple(shape))) for key, shape, _ in listed if re.fullmatch(only, key)}


def uniform(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(oracle.keyfill(shared("oracles")).uniform(name, shape))


def image(name: str, height: int, width: int, channels: int = 3) -> Tensor:
    """(C, H, W) in 0..1."""
    return torch.from_numpy(oracle.keyfill(shared("oracles")).image(name, height, width, channels))


def difference(name: str, mine: Tensor, folder: Path, share: float = 1.0) -> float:
    """The largest difference of array `name`, where it was recorded, in units of its standard deviation.

    `share` of the differences are looked at, the smallest: one step of bfloat16 is larger than what else differs.
    """
    entry: dict[str, Any] = json.loads((folder / "meta.json").read_text())["arrays"][name]
    with np.load(folder / "outputs.npz") as arrays:
        want = torch.from_numpy(arrays[name].astype(np.float64))
    assert list(mine.shape) == entry["shape"], (name, tuple(mine.shape), entry["shape"])
    got = mine.detach().double()[tuple(slice(None, None, step) for step in entry["step"])]
    # a single number has no deviation of its own
    return float((got - want).abs().flatten().quantile(share)) / (entry["full_std"] or max(1e-6, entry["full_absmax"]))


def check(name: str, mine: Tensor, folder: Path, allowed: float = 1e-4, share: float = 1.0) -> None:
    worst = difference(name, mine, folder, share)
    assert worst <= allowed, f"{name} differs by {worst:.2e} of its standard deviation (allowed {allowed:.0e})"
