"""Keras' files give their arrays under Keras' names; files that reach outside themselves are refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from masklet.structures.errors import UserError
from masklet.weights import hdf5, read_tensors
from masklet.weights.hdf5 import read_h5

h5py = pytest.importorskip("h5py")

LAYERS = {
    "conv_fcn_8": {"kernel:0": np.arange(36, dtype=np.float32).reshape(3, 3, 2, 2), "bias:0": np.ones(2, np.float32)},
    "batch_normalization": {"moving_mean:0": np.zeros(2, np.float32)},
    "activation": {},
}


def keras2(path: Path, root: str = "", nested: bool = False) -> Path:
    """As tf.keras' save_weights ("") or save ("model_weights") lays a file out."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        group.attrs["layer_names"] = [name.encode() for name in LAYERS]
        group.attrs["keras_version"] = b"2.3.0"
        for layer, arrays in LAYERS.items():
            names = [f"{layer}/{name}" for name in arrays] if not nested else [f"same/{name}" for name in arrays]
            group.create_group(layer).attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, arrays.values(), strict=True):
                group[layer].create_dataset(name, data=array)
        if root:
            file.attrs["model_config"] = '{"class_name": "Lambda", "config": {"function": "never read"}}'
            file.create_group("optimizer_weights").create_dataset("iter:0", data=3)
    return path


@pytest.mark.parametrize("root", ["", "model_weights"])
def test_names_and_numbers_of_keras_2(root, tmp_path):
    found = read_h5(keras2(tmp_path / "drinks.h5", root))
    assert list(found) == ["conv_fcn_8/kernel:0", "conv_fcn_8/bias:0", "batch_normalization/moving_mean:0"]
    assert np.array_equal(found["conv_fcn_8/kernel:0"], LAYERS["conv_fcn_8"]["kernel:0"])
    assert found["conv_fcn_8/bias:0"].dtype == np.float32
    tensors = read_tensors(tmp_path / "drinks.h5")
    assert {key: tuple(value.shape) for key, value in tensors.items()} == {k: v.shape for k, v in found.items()}


def test_layers_with_one_name_twice(tmp_path):
    path = keras2(tmp_path / "drinks.h5", nested=True)
    with h5py.File(path, "r+") as file:
        file["batch_normalization"].attrs["weight_names"] = [b"same/bias:0"]
        file["batch_normalization"].create_dataset("same/bias:0", data=np.zeros(2))
    assert list(read_h5(path)) == ["same/kernel:0", "same/bias:0", "batch_normalization/same/bias:0"]


def test_names_of_keras_3(tmp_path):
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/conv2d/vars/0", data=np.ones((3, 3, 1, 1)))
        file.create_dataset("layers/conv2d/vars/1", data=np.ones(1))
        file.create_group("vars")
    assert list(read_h5(path)) == ["layers/conv2d/vars/0", "layers/conv2d/vars/1"]


def secret(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["key"] = np.arange(3.0)
    return path


def soft(file):
    file["w"] = h5py.SoftLink("/somewhere")


def outside(file):
    file["w"] = h5py.ExternalLink("secret.h5", "/key")


def beside(file):
    file.create_dataset("w", (4,), "u1", external=[("secret.h5", 0, 4)])


def virtual(file):
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource("secret.h5", "key", (3,))
    file.create_virtual_dataset("w", layout)


LINK = "{path} holds a link (w) and was not read; ask for a file without links"
ELSEWHERE = "{path} keeps w in another file and was not read; ask for one whole file"


@pytest.mark.parametrize(
    ("make", "message"), [(soft, LINK), (outside, LINK), (beside, ELSEWHERE), (virtual, ELSEWHERE)]
)
def test_files_that_reach_outside(make, message, tmp_path):
    secret(tmp_path / "secret.h5")
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        make(file)
    with pytest.raises(UserError) as caught:
        read_h5(path)
    assert str(caught.value) == message.format(path=path)


def test_text_and_damage(tmp_path):
    path = tmp_path / "text.h5"
    with h5py.File(path, "w") as file:
        file["words"] = ["a", "b"]
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    assert str(caught.value) == f"{path} holds words, which is not numbers; save the weights alone: save_weights"
    cut = tmp_path / "cut.h5"
    cut.write_bytes(keras2(tmp_path / "whole.h5").read_bytes()[:-100])
    with pytest.raises(UserError) as caught:
        read_tensors(cut)
    assert str(caught.value) == f"{cut} is cut short or damaged; copy or download it again"
    path = keras2(tmp_path / "lacking.h5")
    with h5py.File(path, "r+") as file:
        del file["conv_fcn_8"]["conv_fcn_8"]
    with pytest.raises(UserError, match=r"lacking\.h5 is cut short or damaged"):
        read_h5(path)


def test_without_h5py(tmp_path, monkeypatch):
    path = keras2(tmp_path / "drinks.h5")
    monkeypatch.setattr(hdf5, "find_spec", lambda name: None if name == "h5py" else importlib.util.find_spec(name))
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    assert str(caught.value) == f"{path} is an HDF5 file, and h5py is not installed; pip install 'masklet[keras]'"
