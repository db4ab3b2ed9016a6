"""What torch.save wrote, read without running any of it, for importers of official checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint


def read_tensor_file(path: str | Path, origin: str) -> object:
    """What a file of `torch.save` holds, for importers; tensors stay on disk until they are read.

    Args:
        origin: whose checkpoint it should be, for messages.
    Raises FileNotFoundError; ValueError if the file is something else, or holds any object but tensors, plain values
    and containers of them: such an object is named and never built.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    try:
        foreign = sorted(get_unsafe_globals_in_checkpoint(path))
        content = None if foreign else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a checkpoint written by torch.save: {error}") from error
    if foreign:
        raise ValueError(
            f"{path} holds the pickled object {' and '.join(map(repr, foreign))}, which was not loaded: an official "
            f"{origin} checkpoint holds tensors only. Do not load this file with other tools."
        )
    return content
