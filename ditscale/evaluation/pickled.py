"""Reads a pickle of dicts, lists, text, numbers and NumPy arrays, as EDM2's reference statistics are; of anything else nothing is run.

An unpickler calls what the file names. Here the few names that NumPy's arrays need lead to classes of this module, which keep
what they are given, and every other name is refused. So neither NumPy nor anything else sees a file's bytes before they are checked.
"""

import pickle
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ditscale.errors import UserError, first_line

KINDS = "fiub"                                                                 # of arrays: floats, integers, truth values
DEEPEST = 20                                                                   # levels of dicts and lists


class _Dtype:
    """``numpy.dtype(code, align, copy)`` and its state, of which the byte order is taken."""

    def __init__(self, code: Any = None, *_: Any):
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def made(self) -> np.dtype:
        if not isinstance(self.code, str) or len(self.code) > 3 or self.code[:1] not in KINDS or not self.code[1:].isdigit() \
                or self.order not in ("<", ">", "|", "="):
            raise ValueError("an array is not of plain numbers")
        return np.dtype(self.code if self.order in "|=" else self.order + self.code)


class _Array:
    """What ``numpy.ndarray`` is in a pickle: a shape, a dtype and the bytes."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def made(self) -> np.ndarray:
        _, shape, dtype, fortran_order, data = self.state
        return _filled(shape, dtype, data, "F" if fortran_order else "C")


class _Ready(NamedTuple):
    """An array or a number of NumPy's that a call makes outright."""

    shape: Any
    dtype: Any
    data: Any
    order: Any

    def made(self) -> Any:
        return _filled(self.shape, self.dtype, self.data, self.order)[() if self.shape == () else ...]


def _filled(shape: Any, dtype: Any, data: Any, order: Any) -> np.ndarray:
    """An array of its own memory."""
    kind = dtype.made() if isinstance(dtype, _Dtype) else None
    if kind is None or order not in ("C", "F") or not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("an array has no shape, or is not of plain numbers")
    if not isinstance(data, (bytes, bytearray)) or len(data) != prod(shape) * kind.itemsize:
        raise ValueError(f"an array of shape {shape[:4]} has other bytes than it needs")
    return np.frombuffer(data, kind).reshape(shape, order=order).copy()


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> _Ready:
    return _Ready(shape, dtype, data, order)


def _scalar(dtype: Any, data: Any = b"") -> _Ready:
    return _Ready((), dtype, data, "C")


def _encode(text: Any, coding: Any = "latin1") -> bytes:
    """How protocols 0 to 2 hold bytes."""
    if not isinstance(text, str) or coding != "latin1":
        raise ValueError("text is not bytes in latin1")
    return text.encode("latin1")


def _empty() -> bytes:
    """How they hold no bytes."""
    return b""


class _Callable:
    """A function that a file can call, and nothing else: a pickle could set a function's attributes."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes a function")


# NumPy 1's and 2's names. ``ndarray`` itself is only handed on, to ``_reconstruct``.
ALLOWED: dict[tuple[str, str], Any] = {("numpy", "dtype"): _Dtype, ("numpy", "ndarray"): _Array, ("_codecs", "encode"): _Callable(_encode)}
ALLOWED |= {(module, "bytes"): _Callable(_empty) for module in ("builtins", "__builtin__")}
for _core in ("numpy.core", "numpy._core"):
    ALLOWED |= {(f"{_core}.multiarray", "_reconstruct"): _Callable(_reconstruct), (f"{_core}.multiarray", "scalar"): _Callable(_scalar),
                (f"{_core}.numeric", "_frombuffer"): _Callable(_from_buffer)}


class _Unpickler(pickle._Unpickler):                                           # the one in Python: the one in C takes a memo of any size
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it holds a {module}.{name}, and nothing but arrays, dicts, lists, text and numbers is loaded")
        return ALLOWED[module, name]


def read_plain_pickle(path: Path) -> Any:
    """What the file holds.

    Raises:
        UserError: it is no pickle, damaged, or holds anything but dicts, lists, text, numbers and arrays of numbers.
    """
    try:
        with open(path, "rb") as file:
            return _plain(_Unpickler(file).load(), DEEPEST)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:                                                 # a damaged pickle raises whatever its opcodes run into
        raise UserError(f"{path}: no pickle that can be loaded safely: {first_line(error)}") from None


def _plain(value: Any, levels: int) -> Any:
    """The value with its arrays made; what can be neither made nor left as it is, is refused."""
    if levels == 0:
        raise ValueError(f"it is more than {DEEPEST} levels deep")
    if isinstance(value, (_Array, _Ready)):
        return value.made()
    if type(value) is dict:
        if not all(type(key) in (str, int) for key in value):
            raise ValueError("a dict has keys that are neither text nor whole numbers")
        return {key: _plain(part, levels - 1) for key, part in value.items()}
    if type(value) in (list, tuple):
        return [_plain(part, levels - 1) for part in value]
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    raise ValueError(f"it holds a {type(value).__name__.lstrip('_')} where a value belongs")
