"""The arrays of an official DreamerV3 checkpoint: a pickle, read without building anything else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np


def _empty_array(kind: type, shape: tuple[int, ...], code: object) -> np.ndarray:
    """What numpy's pickles begin an array with; the state that follows gives it shape, type and numbers."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f"an array begins as an empty one, not as {kind!r} of shape {shape!r}")
    return np.empty(0, np.uint8)


_ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and plain containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds the object '{module}.{name}'")
        return _ALLOWED[module, name]


def read_checkpoint(agent: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an agent.pkl by their official names.

    Raises ValueError if the file is something else, or holds any object but arrays of 32-bit numbers.
    """
    path = Path(agent)
    with path.open("rb") as stream:
        try:
            content = _ArrayUnpickler(stream).load()
        except Exception as error:  # a spoilt pickle can raise anything
            raise ValueError(
                f"{path} was not loaded: {error}. An official DreamerV3 checkpoint is a pickle of numpy arrays only; "
                "do not load this file with other tools."
            ) from error
    parameters = content.get("params") if isinstance(content, dict) else None
    if not isinstance(parameters, dict) or set(content) != {"params", "counters"}:
        raise ValueError(f"{path} should hold a dict of 'params' and 'counters', as the official agent saves.")
    for name, array in parameters.items():
        if not isinstance(name, str) or type(array) is not np.ndarray or array.dtype not in (np.float32, np.int32):
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"{path} holds {name!r} of type {kind}; an array of 32-bit numbers is expected.")
    return parameters
