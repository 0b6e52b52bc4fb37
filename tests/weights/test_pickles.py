"""Pickles of numpy arrays are read without calling what they name; every other one is refused by name."""

from __future__ import annotations

import builtins
import collections
import contextlib
import io
import os
import pickle
import pickletools
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.structures.errors import UserError
from masklet.weights import read_tensors
from masklet.weights.pickles import ForeignObject, _names, read_pickle

ARRAYS = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big end first": np.arange(3, dtype=">f4"),
    "bool": np.array([True, False]),
    "half": np.ones((2, 1, 2), np.float16),
    "empty": np.zeros((0, 3)),
    "one number": np.array(5, np.int32),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_every_kind(protocol, tmp_path):
    path = tmp_path / "model_final.pkl"
    content = {"model": collections.OrderedDict(ARRAYS), "__author__": "someone", "iteration": np.int64(3), "seen": {1}}
    path.write_bytes(pickle.dumps(content, protocol))
    tensors = read_tensors(path)
    assert list(tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert torch.equal(tensors[name], torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))), name
        tensors[name].zero_()  # memory of its own
    found = read_pickle(path)
    assert (found["__author__"], found["iteration"], found["seen"]) == ("someone", 3, {1})


def test_pickle_of_python_2(tmp_path):
    """Its texts are bytes, those of arrays as well: written here by hand, as Python 3 cannot."""
    out = io.BytesIO()
    out.write(b"\x80\x02}U\x05modelq\x00}q\x01U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n")
    out.write(b"K\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN")
    out.write(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08" + np.array([1.5, -2], "<f4").tobytes() + b"tbss.")
    pickletools.dis(out.getvalue(), io.StringIO())  # it is a whole pickle
    path = tmp_path / "R-50.pkl"
    path.write_bytes(out.getvalue())
    assert read_tensors(path)["w"].tolist() == [1.5, -2]


class Touch:
    """Makes a file when unpickled."""

    def __init__(self, call, *words):
        self.call, self.words = call, words

    def __reduce__(self):
        return self.call, self.words


@pytest.mark.parametrize(
    ("trap", "name"),
    [
        (Touch(os.system, "touch sprung"), "posix.system"),
        (Touch(shutil.copy, "model_final.pkl", "sprung"), "shutil.copy"),
        (Touch(builtins.eval, "open('sprung', 'w')"), "builtins.eval"),
        (Touch(builtins.getattr, "text", "upper"), "builtins.getattr"),
        (Touch(np.save, "sprung.npy", 1), "numpy.save"),
        (torch.nn.ReLU(), "torch.nn.modules.activation.ReLU"),
        (np.array([{}, None]), "numpy array of dtype O8"),
        (np.array(["text"]), "numpy array of dtype U4"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_everything_else_is_refused(trap, name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": np.ones(2)}, "extra": [trap]}, protocol))
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    assert str(caught.value) == (
        f"{path} holds Python objects besides tensors ({name}) and was not opened, as reading them runs code; "
        "ask its author for the state dict alone, best as safetensors"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["model_final.pkl"]


def test_what_a_pickle_changes_is_gone_with_it(tmp_path):
    """BUILD sets attributes of what is on the stack: here the defaults of what stands in for `_codecs.encode`."""
    evil, good = tmp_path / "evil.pkl", tmp_path / "good.pkl"
    evil.write_bytes(b"\x80\x02c_codecs\nencode\nN}U\x0c__defaults__U\x04evil\x85s\x86b.")
    assert read_pickle(evil).__defaults__ == ("evil",)
    good.write_bytes(pickle.dumps({"model": {"w": np.ones(2)}}, 2))
    assert b"encode" in good.read_bytes()
    assert read_tensors(good)["w"].tolist() == [1, 1]
    assert _names()["_codecs", "encode"].__defaults__ != ("evil",)


def test_a_name_that_would_write_on_the_terminal(tmp_path):
    path = tmp_path / "odd.pkl"
    path.write_bytes(b"\x80\x04\x8c\x02\x1b[\x8c\x01x\x93.")
    with pytest.raises(ForeignObject) as caught:
        read_pickle(path)
    assert caught.value.name == r"'\x1b[.x'"


@pytest.fixture(scope="module")
def whole() -> bytes:
    return pickle.dumps({"model": {"w": np.arange(12.0).reshape(3, 4), "b": np.ones(3, np.float32)}}, 2)


@settings(max_examples=60)
@given(st.data())
def test_damage_anywhere_is_an_answer(whole, tmp_path_factory, data):
    """A byte changed or the end cut off: the arrays are read or one sentence is said, nothing else happens."""
    path = tmp_path_factory.mktemp("damage") / "x.pkl"
    content = bytearray(whole)
    content[data.draw(st.integers(2, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(2, len(content)))])
    found = {}
    with contextlib.suppress(UserError):
        found = read_tensors(path)
    assert all(isinstance(value, torch.Tensor) for value in found.values())
