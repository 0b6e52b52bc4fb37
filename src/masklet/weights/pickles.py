"""Reads pickles of numpy arrays, as detectron2 publishes its weights, without running what is written in them.

A pickle is a program: it may call anything that Python can import. Here it reaches ten names, and even those are
stand-ins that only note down what numpy would have been told. Every other name is refused, and said.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = r"[biu][1248]|f[248]"  # numpy's codes for what may be in an array: no objects, no texts
DEEPEST = 8  # dicts inside dicts; a pickle may also contain itself


class ForeignObject(pickle.UnpicklingError):
    """The pickle wants something else than numbers in containers; `name` says what."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name if name.isprintable() else ascii(name)


def read_pickle(path: Path) -> Any:
    """What the pickle at `path` holds, arrays as numpy arrays; texts of Python 2 are read as latin1.

    Raises `ForeignObject` for anything but arrays, numbers, texts and plain containers, and the errors of a damaged
    pickle.
    """
    with open(path, "rb") as file:
        return _plain(_Reader(file, encoding="latin1").load())


class _Reader(pickle.Unpickler):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.names = _names()  # made anew for each file: a pickle can set attributes of what it gets

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        if (module, name) not in self.names:
            raise ForeignObject(f"{module}.{name}")
        return self.names[module, name]


class _Array:
    """An array that is still told what it holds; `made` by then."""

    made: np.ndarray


def _names() -> dict[tuple[str, str], Callable[..., Any]]:
    """The names that a pickle of arrays uses, and what stands in for each."""

    class Dtype:
        def __init__(self, code: str, *_: Any) -> None:
            self.code = code
            self.order: Any = "="

        def __setstate__(self, state: Any) -> None:
            self.order = state[1]

        def numpy(self) -> np.dtype:
            if not re.fullmatch(NUMBERS, self.code):
                raise ForeignObject(f"numpy array of dtype {self.code}")
            return np.dtype(self.code).newbyteorder(self.order)

    class Array(_Array):
        def __init__(self, *_: Any) -> None: ...

        def __setstate__(self, state: Any) -> None:
            _, shape, dtype, by_columns, data = state
            self.made = array(data, dtype, shape, "F" if by_columns else "C")

    def array(data: Any, dtype: Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
        kind = dtype.numpy()
        content = data.encode("latin1") if isinstance(data, str) else bytes(data)
        if len(content) != math.prod(shape) * kind.itemsize:
            raise ValueError(f"{len(content)} bytes for {shape}")
        numbers = np.frombuffer(content, kind).reshape(shape, order="F" if order == "F" else "C")
        return numbers.astype(kind.newbyteorder("="))  # a copy that can be written to, for this machine

    def from_buffer(data: Any, dtype: Dtype, shape: tuple[int, ...], order: str, *_: Any) -> _Array:
        out = Array()
        out.made = array(data, dtype, shape, order)
        return out

    def scalar(dtype: Dtype, data: Any) -> Any:
        return array(data, dtype, (), "C").item()

    def encode(text: str, encoding: str = "latin1") -> bytes:  # how Python 3 writes bytes for Python 2
        return text.encode("latin1")

    return {
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): Dtype,
        ("numpy.core.multiarray", "_reconstruct"): Array,
        ("numpy.core.multiarray", "scalar"): scalar,
        ("numpy.core.numeric", "_frombuffer"): from_buffer,
        ("_codecs", "encode"): encode,
        ("collections", "OrderedDict"): dict,
        ("builtins", "bytes"): lambda: b"",  # and how it writes no bytes at all
        ("builtins", "set"): set,
        ("builtins", "dict"): dict,
    }


def _plain(value: Any, depth: int = 0) -> Any:
    if isinstance(value, _Array):
        return value.made
    if isinstance(value, Mapping) and depth < DEEPEST:
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    return value
