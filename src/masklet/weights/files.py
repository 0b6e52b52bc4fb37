"""Reading and writing weight files: nothing in a file is ever run, and a broken file gives one helpful sentence.

Ours are safetensors with a JSON note under the metadata key "masklet": model, options, classes, recipe, scores.
Foreign ones may also be torch files, detectron2's pickles and Keras' HDF5: of those only arrays in plain containers are
accepted.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import string
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from masklet.parts.lora import plain_state
from masklet.structures.errors import UserError
from masklet.structures.files import replacing
from masklet.weights.hdf5 import read_h5
from masklet.weights.pickles import ForeignObject, read_pickle

scalar = np.float64(0).__reduce__()[0]  # how numpy restores a single number
VERSION = 1  # of the note in our own files
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pkl", ".h5", ".hdf5", ".caffemodel")
# Where training scripts put the weights. Of two sets the average over training is the one that was scored.
WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema"),
    *("state_dict", "model_state_dict", "model", "network", "net", "module"),
)
TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the number that a torch file from before 1.6 begins with
# What training scripts leave beside the weights and what reads as plain values: their arguments, and single numbers.
HARMLESS: list[Any] = [
    argparse.Namespace,
    *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
]
FLAT = 2  # tensors with fewer axes (biases, norm statistics) stay float32: they are small and half would hurt them


def save_checkpoint(
    path: str | os.PathLike[str], model: nn.Module, extra: Mapping[str, Any] | None = None, half: bool = False
) -> Path:
    """Writes `model`, which `masklet.build` made, with all that is needed to load it again, at once or not at all.

    `extra` joins the note (recipe, scores, ...). `half` stores kernels as float16, half the size. Low-rank terms
    (`masklet.parts.lora`) are added to their weights.
    """
    spec: Any = getattr(model, "spec", None)
    classes: Any = getattr(model, "classes", None)
    if spec is None or classes is None:
        raise UserError(f"{type(model).__name__} does not say how it was built", hint="make models with masklet.build")
    note = {"version": VERSION, **spec, "classes": classes.to_dict(), **(extra or {})}
    tensors = {key: _stored(value, half) for key, value in plain_state(model).items()}
    with replacing(path) as unfinished:
        save_file(tensors, unfinished, metadata={"masklet": json.dumps(note), "format": "pt"})
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
    return Path(path)


def save_plain(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> Path:
    """Writes a state dict and nothing else, as safetensors or, by the suffix .pth, as torch's own file."""
    whole = {key: _stored(value, half=False) for key, value in tensors.items()}
    with replacing(path) as unfinished:
        if Path(path).suffix == ".safetensors":
            save_file(whole, unfinished, metadata={"format": "pt"})
        else:
            torch.save(whole, unfinished)
    return Path(path)


def _stored(value: Shaped[Tensor, "*shape"], half: bool) -> Shaped[Tensor, "*shape"]:
    value = value.detach().cpu()
    if half and value.dtype == torch.float32 and value.ndim >= FLAT and value.abs().max() < torch.finfo(torch.half).max:
        return value.half().contiguous()
    return value.contiguous().clone()  # safetensors refuses tensors that share memory


def read_note(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The note in a checkpoint of ours; None for a file that masklet did not write."""
    path = existing(path)
    if _kind(path) != "safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("masklet")
        note = None if text is None else json.loads(text)
    except (SafetensorError, ValueError) as error:
        _damaged(path, error)
    if note is None:
        return None
    if (
        not isinstance(note, dict)
        or not isinstance(note.get("model"), str)
        or not isinstance(note.get("options"), dict)
    ):
        raise UserError(f"the note in {path} does not name a model", hint="write it again with save_checkpoint")
    if note.get("version", VERSION) > VERSION:
        raise UserError(f"{path} was written by a newer masklet (format {note['version']})", hint="upgrade masklet")
    return note


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Every tensor of a weight file by name, on the CPU, unwrapped from training checkpoints.

    Takes safetensors, torch files new and old, detectron2's pickles and Keras' HDF5 (with h5py installed).
    """
    path = existing(path)
    kind = _kind(path)
    try:
        if kind == "safetensors":
            return load_file(path)
        if kind == "hdf5":
            content: Any = read_h5(path)
        elif kind == "pickle":
            content = read_pickle(path)
        else:
            with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
                warnings.simplefilter("ignore")  # about programs and odd pickles: refused below, in one sentence
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, MemoryError) as error:
        _damaged(path, error)
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # pickles that end or go wrong midway
        _damaged(path, error)
    return unwrap(content, str(path))


def unwrap(content: Any, source: str) -> dict[str, Tensor]:
    """The state dict inside whatever a training script saved, without the prefix of data-parallel training."""
    found = content
    while isinstance(found, Mapping) and (
        inner := next((k for k in WRAPPERS if isinstance(found.get(k), Mapping)), "")
    ):
        found = found[inner]
    if not isinstance(found, Mapping):
        raise UserError(f"{source} holds a {type(found).__name__}, not named tensors", hint="save model.state_dict()")
    found = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in found.items()}
    tensors = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        names = ", ".join(map(str, list(found)[:5])) or "nothing"
        raise UserError(f"{source} holds no tensors", hint=f"save model.state_dict(); it holds {names}")
    if len(tensors) < len(found):
        other = next(
            str(key) for key, value in found.items() if not (isinstance(key, str) and isinstance(value, Tensor))
        )
        raise UserError(f"{source} holds more than tensors ({other})", hint="save only model.state_dict()")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    copies = {f"ema_{key.replace('.', '_')}" for key in tensors}  # a second set beside the first (mmcv's EMAHook)
    return {key: value for key, value in tensors.items() if key not in copies}


def existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder", hint="give the weight file in it")
    if not path.exists():
        raise FileNotFoundError(f"no weight file at {path}; check the path")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes)", hint="copy or download it again")
    return path


def _kind(path: Path) -> str:
    """What the first bytes say: a wrong suffix is common, a wrong beginning is not."""
    if path.suffix == ".caffemodel":
        raise UserError(f"{path} is a Caffe file, which masklet does not read", hint="look for a PyTorch port of it")
    with open(path, "rb") as file:
        start = file.read(64)
    if start[:4] == b"PK\x03\x04":
        return "zip"
    if start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") < 1 << 32:
        return "safetensors"
    if start[:1] == b"\x80":
        return "torch" if TORCH_MAGIC in start else "pickle"
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the weights", hint="run: git lfs pull")
    if start.startswith(b"\x89HDF"):
        return "hdf5"
    if all(chr(byte) in string.printable for byte in start):
        line = start.decode().strip().splitlines()[0:1] or [""]
        raise UserError(f"{path} is text, not weights (it begins {line[0][:40]!r})", hint="download the file itself")
    raise UserError(f"{path} is not a weight file that masklet knows", hint="check what was downloaded")


def _damaged(path: Path, error: Exception) -> NoReturn:
    text = str(error)
    if "TorchScript" in text:
        raise UserError(f"{path} is a TorchScript program", hint="save its state_dict() instead") from error
    foreign = re.search(r"(?:GLOBAL|Unsupported (?:class|global):?|type) ([\w.]+\.[\w.]+)", text)
    if name := error.name if isinstance(error, ForeignObject) else foreign and foreign[1]:
        raise UserError(
            f"{path} holds Python objects besides tensors ({name}) and was not opened, as reading them runs code",
            hint="ask its author for the state dict alone, best as safetensors",
        ) from error
    if isinstance(error, pickle.UnpicklingError) and "weights_only" in text.lower():
        reason = "it asks for Python operations that weights do not need"
        raise UserError(f"{path} was not opened: {reason}", hint="ask for the state dict as safetensors") from error
    raise UserError(f"{path} is cut short or damaged", hint="copy or download it again") from error
