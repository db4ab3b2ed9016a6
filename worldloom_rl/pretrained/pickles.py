"""What torch.save wrote, read without running any of it, for importers of official checkpoints."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals


def read_tensor_file(path: str | Path, origin: str, stand_ins: Mapping[str, object] = MappingProxyType({})) -> object:
    """What a file of `torch.save` holds, for importers; tensors stay on disk until they are read.

    Args:
        origin: whose checkpoint it should be, for messages.
        stand_ins: inert classes and functions of our own for what the file may name beside tensors, by those names.
    Raises FileNotFoundError; ValueError if the file is something else, or holds any object but tensors, plain values
    and containers of them: such an object is named and never built.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    try:
        foreign = sorted(set(get_unsafe_globals_in_checkpoint(path)).difference(stand_ins))
        with safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()]):
            content = None if foreign else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a checkpoint written by torch.save: {error}") from error
    if foreign:
        raise ValueError(
            f"{path} holds the pickled object {' and '.join(map(repr, foreign))}, which was not loaded: an official "
            f"{origin} checkpoint holds tensors only. Do not load this file with other tools."
        )
    return content
