"""Recorded outputs of reference implementations (`../shared/oracles`, `tests/oracles`): weights by key, comparison.

folder = oracle.find("pytorch_fcn8s")
weights, image = oracle.state_dict(folder), oracle.image(folder)
oracle.check("logits", model(image), folder)
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conftest import shared


@cache
def _keyfill(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("keyfill", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find(name: str) -> Path:
    """The fixture `name`: recorded here (tests/oracles) or in `../shared/oracles`."""
    here = Path(__file__).parent / "oracles" / name
    return here if here.exists() else shared("oracles", name)


def keyfill(folder: Path) -> ModuleType:
    """The recorder's module: `fill`, `image`, `uniform`."""
    return _keyfill(shared("oracles", "keyfill.py"))


def meta(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "meta.json").read_text())


def keys(folder: Path) -> list[tuple[str, list[int], str]]:
    """Name, shape and type of every tensor of the reference, in its own naming."""
    return json.loads((folder / "keys.json").read_text())


def state_dict(folder: Path, known: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights that the reference ran with, remade from their names.

    `known`, if given, remembers tensors for the next fixture that has them too (name, shape and gain equal).
    """
    gains, fill = meta(folder)["gains"], keyfill(folder).fill
    known = {} if known is None else known
    out = {}
    for key, shape, dtype in keys(folder):
        if dtype.startswith("float"):
            gain = next((g for pattern, g in gains if re.search(pattern, key)), 1.0)
            name = f"{key} {shape} {gain}"
            known[name] = out[key] = (
                known[name] if name in known else torch.from_numpy(fill(key, tuple(shape), gain=gain))
            )
        elif key.endswith("num_batches_tracked"):
            out[key] = torch.tensor(0)
    return out


def pixels(folder: Path) -> np.ndarray:
    """The input image (H, W, 3), uint8, RGB."""
    entry = meta(folder)["input"]
    image = keyfill(folder).image(entry["image"], entry["height"], entry["width"])
    return np.rint(255 * image).astype(np.uint8).transpose(1, 2, 0).copy()


def image(folder: Path) -> Tensor:
    """The input image as masklet wants it: (1, 3, H, W), RGB, 0..1."""
    return torch.from_numpy(pixels(folder)).permute(2, 0, 1)[None] / 255


def recorded(name: str, folder: Path) -> np.ndarray:
    """A recorded array, an input such as `in.sem_gt` for instance."""
    with np.load(folder / "outputs.npz") as arrays:
        return arrays[name]


def difference(name: str, mine: Any, folder: Path) -> float:
    """The largest difference of array `name`, sampled and projected, in units of its standard deviation."""
    entry, want = meta(folder)["arrays"][name], recorded(name, folder)
    mine = mine.detach().numpy() if isinstance(mine, Tensor) else np.asarray(mine)
    assert list(mine.shape) == entry["shape"], (name, mine.shape, entry["shape"])
    scale = max(entry.get("std", 0.0), 1e-6)
    worst = float(np.abs(mine[tuple(slice(None, None, k) for k in entry["step"])] - want).max()) / scale
    if "proj" in entry:
        weights = keyfill(folder).uniform("proj:" + name, mine.shape)
        projection = float((mine.astype(np.float64) * weights).sum() / math.sqrt(mine.size))
        worst = max(worst, abs(projection - entry["proj"]) / scale)
    return worst


def check(name: str, mine: Any, folder: Path, rtol: float = 1e-4) -> None:
    """Fails unless `mine` equals the recorded array `name` to `rtol` of its standard deviation."""
    worst = difference(name, mine, folder)
    assert worst <= rtol, f"{name} differs by {worst:.2e} of its standard deviation (allowed {rtol:.0e})"
