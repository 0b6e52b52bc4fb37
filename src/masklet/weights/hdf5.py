"""Reads the HDF5 files that Keras writes: arrays and their names, nothing of the model that is described beside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from masklet.structures.errors import UserError


def read_h5(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Every array of a Keras file by Keras' own name, such as `conv_fcn_8/kernel:0`, layers in the file's order.

    Takes what `save_weights` and `save` wrote, in the format of Keras 2 (names in the attributes) and of Keras 3
    (names are the path). Links out of the file are refused: they could read any file here. Needs h5py, which
    `pip install 'masklet[keras]'` brings.
    """
    if find_spec("h5py") is None:
        raise UserError(f"{path} is an HDF5 file, and h5py is not installed", hint="pip install 'masklet[keras]'")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            whole_model = isinstance(file.get("model_weights", getlink=True), h5py.HardLink)
            root = file["model_weights"] if whole_model else file
            found = list(_arrays(h5py, root, str(path)))
            if "layer_names" in root.attrs:
                found = list(_named_by_keras(root, dict(found)))
            return {name: np.asarray(array[()]) for name, array in found}
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{path} is cut short or damaged", hint="copy or download it again") from error


def _arrays(h5py: Any, group: Any, said: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in group:
        name = f"{prefix}{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise UserError(f"{said} holds a link ({name}) and was not read", hint="ask for a file without links")
        item = group[key]
        if isinstance(item, h5py.Group):
            yield from _arrays(h5py, item, said, f"{name}/")
        elif item.external or item.is_virtual:
            raise UserError(f"{said} keeps {name} in another file and was not read", hint="ask for one whole file")
        elif item.dtype.kind not in "biuf":
            raise UserError(f"{said} holds {name}, which is not numbers", hint="save the weights alone: save_weights")
        else:
            yield name, item


def _named_by_keras(root: Any, arrays: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keras 2 lists the layers in order and says under each which arrays it has; the path repeats the layer."""
    used: set[str] = set()
    for layer in map(_text, root.attrs["layer_names"]):
        for name in map(_text, root[layer].attrs["weight_names"]):
            yield f"{layer}/{name}" if name in used else name, arrays[f"{layer}/{name}"]
            used.add(name)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
