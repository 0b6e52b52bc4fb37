"""The full state of a training in one safetensors file, replaced atomically: a run killed at any moment can go on.

Tensors (weights, averaged weights, optimizer moments) are stored as they are and everything else as JSON in the
file's metadata, so that reading a checkpoint never executes anything. The order of samples, their augmentation and
dropout need no state: they are functions of (seed, epoch, position), see `feed` and `loop`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from masklet.structures.errors import UserError
from masklet.structures.files import replacing
from masklet.train.ema import Ema

Record = dict[str, int | float]  # what is logged of a step or an epoch


@dataclass
class Progress:
    """Where a training stands."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches of the current epoch already used
    step: int = 0  # optimizer steps taken
    seconds: float = 0.0  # spent training and validating, over all sittings
    best: float | None = None  # best monitored score so far
    best_epoch: int = 0
    finished: str = ""  # why the training is over; empty while it is not
    sums: Record = field(default_factory=dict)  # losses summed over the current epoch, and "steps"
    history: list[Record] = field(default_factory=list)  # one record per epoch


def write_atomically(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file next to `path` and renames it, so `path` is either the old file or the new one."""
    with replacing(path) as unfinished:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, unfinished, metadata)
        with open(unfinished, "rb") as f:
            os.fsync(f.fileno())


def save_last(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    ema: Ema | None = None,
    recipe: dict[str, Any] | None = None,
) -> None:
    """Writes everything that `load_last` needs to continue bit for bit."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema/{k}": v for k, v in ema.model.state_dict().items()}
    state = optimizer.state_dict()
    scalars: dict[str, Any] = {}
    for index, slots in state["state"].items():
        for key, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                scalars[f"{index}/{key}"] = value
    notes = {
        "version": 1,
        "recipe": recipe,
        "progress": asdict(progress),
        "optimizer": {"param_groups": state["param_groups"], "scalars": scalars},
    }
    write_atomically(path, tensors, {"masklet_training": json.dumps(notes)})


def read_notes(path: Path) -> dict[str, Any]:
    """What a `last` checkpoint says about itself: recipe, progress, optimizer settings."""
    try:
        with safe_open(path, "pt") as f:
            metadata = f.metadata() or {}
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is damaged ({e})", hint="delete it to train from the start") from e
    if "masklet_training" not in metadata:
        raise UserError(f"{path} is not the state of a training", hint="resume from the file called last.safetensors")
    return json.loads(metadata["masklet_training"])


def load_last(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None = None) -> Progress:
    """Puts the state in `path` back into a model, optimizer and average that were built in the same way."""
    notes = read_notes(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
    with safe_open(path, "pt") as f:
        for name in f.keys():  # noqa: SIM118  a safe_open is not a dict
            part, key = name.split("/", 1)
            parts[part][key] = f.get_tensor(name)
    if (ema is None) != (not parts["ema"]):
        raise UserError(f"{path} was written {'with' if ema is None else 'without'} averaged weights")
    try:
        model.load_state_dict(parts["model"])
        if ema is not None:
            ema.model.load_state_dict(parts["ema"])
    except RuntimeError as e:
        raise UserError(f"{path} belongs to another model", hint=str(e).splitlines()[-1].strip()) from e

    saved = notes["optimizer"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if [len(g["params"]) for g in saved["param_groups"]] != [len(g["params"]) for g in optimizer.param_groups]:
        raise UserError(f"{path} was written by an optimizer with other parameter groups")
    state: dict[int, dict[str, Any]] = {}
    for slots, values in ((state, parts["optimizer"]), (state, saved["scalars"])):
        for name, value in values.items():
            index, key = name.split("/", 1)
            slots.setdefault(int(index), {})[key] = value
    for index, slot in state.items():
        for key, value in slot.items():
            if isinstance(value, Tensor) and value.shape == parameters[index].shape and value.ndim:
                slot[key] = torch.empty_like(parameters[index]).copy_(value)  # same memory format as the parameter
    for group in saved["param_groups"]:
        group.update({k: tuple(v) for k, v in group.items() if k == "betas"})  # JSON has no tuples
    optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})
    return Progress(**notes["progress"])
