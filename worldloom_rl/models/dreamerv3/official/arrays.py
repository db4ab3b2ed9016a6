"""The arrays of an official DreamerV3 checkpoint: a pickle, read without building anything else."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from worldloom_rl.pretrained.pickles import PickleReader, StateTaker
from worldloom_rl.pretrained.tensors import shown

_KINDS = "fiub"  # of numbers; arrays of objects or texts are none
_SHARED = 2  # times the file's length that its arrays may have together


class _Dtype(StateTaker):
    """What numpy's pickles say of a type: a name such as "f4" and then its byte order."""

    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or len(name) > 4 or np.dtype(name).kind not in _KINDS:
            raise ValueError(f"it holds an array of {str(name)[:20]!r}, not of numbers")
        self.dtype: np.dtype = np.dtype(name)

    def set_state(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("it describes the type of an array in an unknown way")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(StateTaker):
    """What numpy's pickles begin an array with; the state that follows gives it shape, type and numbers."""

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def set_state(self, state: object) -> None:
        match state:
            case (int(), tuple() as shape, _Dtype() as kind, bool() as fortran, numbers):
                self.array = _array(numbers, kind, shape, "F" if fortran else "C")
            case _:
                raise ValueError("it describes an array in an unknown way")


def _array(numbers: object, kind: object, shape: object, order: object) -> np.ndarray:
    """An array whose numbers stand in these bytes, each of its own."""
    if not isinstance(kind, _Dtype) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise ValueError("it describes an array in an unknown way")
    if not all(type(size) is int and 0 <= size < 2**48 for size in shape) or len(shape) > 32:
        raise ValueError("it has an array of an absurd shape")
    needed = math.prod(shape) * kind.dtype.itemsize
    if not isinstance(numbers, bytes | memoryview) or len(numbers) != needed:
        given = len(numbers) if isinstance(numbers, bytes | memoryview) else "no"
        raise ValueError(f"it has an array of shape {shape!s:.100} with {given} bytes where {needed} are needed")
    array: np.ndarray = np.frombuffer(numbers, kind.dtype).reshape(shape, order=order)
    return array.astype(kind.dtype.newbyteorder("="), copy=False)


def _begun(kind: object, shape: object, code: object) -> _Array:
    if kind != _NDARRAY or shape != (0,):
        raise ValueError(f"an array begins as an empty one, not as one of shape {shape!s:.100}")
    return _Array()


def _from_bytes(numbers: object, kind: object, shape: object, order: object) -> _Array:
    made = _Array()
    made.array = _array(numbers, kind, shape, order)
    return made


def _dtype(name: object, *flags: object) -> _Dtype:
    return _Dtype(name)


def _latin(text: object, encoding: object) -> bytes:
    """Bytes as pickles of protocol 2 hold them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("it holds a text in an unknown encoding")
    return text.encode("latin1")


_NDARRAY = "numpy.ndarray"
_KNOWN: Mapping[str, object] = {
    _NDARRAY: _NDARRAY,
    "numpy.dtype": _dtype,
    "_codecs.encode": _latin,
    **{f"numpy.{core}.multiarray._reconstruct": _begun for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_bytes for core in ("core", "_core")},
}


def read_checkpoint(agent: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an agent.pkl by their official names, in single precision.

    Raises ValueError if the file is something else, or holds any object but arrays of numbers.
    """
    path = Path(agent)
    try:
        if not path.stat().st_size:
            raise ValueError("it is empty")
        with path.open("rb") as stream:
            content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        read = PickleReader(content, _KNOWN).read()[0]
    except ValueError as error:
        raise ValueError(
            f"{path} was not loaded: {str(error)[:200]}. An official DreamerV3 checkpoint is a pickle of numpy arrays "
            "only; do not load this file with other tools."
        ) from error
    parameters = read.get("params") if isinstance(read, dict) else None
    if not isinstance(parameters, dict) or set(read) != {"params", "counters"}:  # type: ignore[call-overload]
        raise ValueError(f"{path} should hold a dict of 'params' and 'counters', as the official agent saves.")
    arrays = {name: _checked(name, value, path) for name, value in parameters.items()}
    if sum(array.nbytes for array in arrays.values()) > _SHARED * len(content):
        raise ValueError(f"{path} holds arrays that share their numbers; in an official checkpoint each has its own.")
    kinds = {array.dtype for array in arrays.values() if array.dtype.kind == "f"}
    taken = {np.dtype(np.float16), *(kinds if kinds == {np.dtype(np.float64)} else ())}
    for name, array in arrays.items():
        if array.dtype in taken:
            arrays[name] = array.astype(np.float32)
        elif array.dtype not in (np.float32, np.int32):
            raise _wrong_kind(path, name, str(array.dtype))
    return arrays


def _checked(name: object, value: object, path: Path) -> np.ndarray:
    if not isinstance(name, str) or not isinstance(value, _Array) or value.array is None:
        raise _wrong_kind(path, name, "array" if isinstance(value, _Array) else type(value).__name__)
    return value.array


def _wrong_kind(path: Path, name: object, kind: str) -> ValueError:
    return ValueError(f"{path} holds {shown(str(name))} of type {kind}; an array of 32-bit numbers is expected.")
