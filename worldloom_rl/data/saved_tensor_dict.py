"""A TensorDict that torch.save wrote, as mapped tensors: no line of TensorDict runs, nothing is copied.

There are two layouts. That of 2023 (tensordict 0.2) pickles the object with its attributes, that of today a call with
them. Inert stand-ins take the place of the classes and of the call.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals


class _Attributes:
    """Where a TensorDict stood: its attributes, as the file has them."""

    attributes: object = None

    def __setstate__(self, attributes: object) -> None:
        self.attributes = attributes


class _Class:
    """Where a class stood, which is only an argument."""


def _attributes_of(_: type, attributes: object) -> _Attributes:
    made = _Attributes()
    made.attributes = attributes
    return made


_STAND_INS: Mapping[str, Callable[..., object]] = MappingProxyType(
    {
        "tensordict.tensordict.TensorDict": _Attributes,
        "tensordict.utils._StringOnlyDict": dict,
        "tensordict._td.TensorDict": _Class,
        "tensordict._reductions._make_td": _attributes_of,
        "__builtin__.set": set,
    }
)


class Leaf(NamedTuple):
    """What a leaf must be: its dtypes, its dimensions behind the batch, and whether it may be absent."""

    dtypes: tuple[torch.dtype, ...]
    dimensions: int = 0
    optional: bool = False


def read_tensor_dict(path: Path, leaves: Mapping[str, Leaf], dimensions: int) -> dict[str, Tensor]:
    """The tensors of a file by name, mapped.

    Args:
        leaves: what the file may hold; more is refused.
        dimensions: of its batch.
    Raises FileNotFoundError; ValueError, naming the file and what is wrong, before any of the tensors is read: another
    object, layout, name, dtype or shape; tensors that share memory or reach beyond what the file holds of them.
    """
    content = _mapped(path)
    attributes = content.attributes if isinstance(content, _Attributes) else None
    if not isinstance(attributes, dict) or not isinstance(attributes.get("_tensordict"), dict):
        raise ValueError(f"{path} holds no TensorDict, but {type(content).__name__}: take a file of tdmpc2 or newt.")
    tensors, batch = attributes["_tensordict"], attributes.get("_batch_size")
    if attributes.get("_td_dim_names") is not None:
        raise ValueError(f"{path}: its dimensions have names, which files of tdmpc2 and newt have not.")
    if not isinstance(batch, torch.Size) or len(batch) != dimensions:
        raise ValueError(f"{path}: its batch is {batch!r}, expected {dimensions} dimension{'s' * (dimensions > 1)}.")
    missing = [name for name, leaf in leaves.items() if not leaf.optional and name not in tensors]
    unknown = [name for name in tensors if name not in leaves]
    if missing or unknown:
        raise ValueError(f"{path} lacks {missing} and has the unknown {sorted(map(str, unknown))[:5]}.")
    for name, tensor in tensors.items():
        _check_leaf(f"{path}: {name!r}", tensor, leaves[name], batch)
    _check_memory(path, tensors)
    return dict(tensors)


def _mapped(path: Path) -> object:
    """What the file holds, with stand-ins; its tensors stay on disk, which is why it is not read as checkpoints are."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        foreign = sorted(set(get_unsafe_globals_in_checkpoint(path)).difference(_STAND_INS))
        with safe_globals([(stand_in, name) for name, stand_in in _STAND_INS.items()]):
            content = None if foreign else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no file of torch.save, or is cut off: {str(error)[:200]}") from error
    if foreign:
        raise ValueError(
            f"{path} holds the pickled object {foreign[0][:100]!r}, which was not loaded: recorded data are tensors "
            "only. Do not load this file with other tools."
        )
    return content


def _check_leaf(name: str, tensor: object, leaf: Leaf, batch: torch.Size) -> None:
    if type(tensor) is not Tensor or tensor.layout is not torch.strided:
        raise ValueError(f"{name} is not a plain tensor; no other object is read.")
    if tensor.dtype not in leaf.dtypes:
        allowed = " or ".join(str(dtype).removeprefix("torch.") for dtype in leaf.dtypes)
        raise ValueError(f"{name} is of {str(tensor.dtype).removeprefix('torch.')}, expected {allowed}.")
    if tensor.shape[: len(batch)] != batch or tensor.ndim != len(batch) + leaf.dimensions or 0 in tensor.shape:
        width = ", width" * leaf.dimensions
        raise ValueError(f"{name} has the shape {list(tensor.shape)}, expected [{', '.join(map(str, batch))}{width}].")
    if not tensor.is_contiguous() or tensor.storage_offset() or tensor.untyped_storage().nbytes() != tensor.nbytes:
        raise ValueError(
            f"{name} does not lie whole and alone in its storage: strides {list(tensor.stride())}, offset "
            f"{tensor.storage_offset()}, {tensor.untyped_storage().nbytes()} bytes of storage for {tensor.nbytes}."
        )


def _check_memory(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the file has a record of its own for every tensor, whole, uncompressed and apart."""
    places = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes, name) for name, tensor in tensors.items())
    for (_, stop, name), (start, _, other) in pairwise(places):
        if start < stop:
            raise ValueError(f"{path}: {name!r} and {other!r} share memory.")
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    size = path.stat().st_size
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.header_offset + record.file_size > size:
            raise ValueError(f"{path}: its record {record.filename!r} is compressed or cut off.")
    held = sorted(record.file_size for record in records if Path(record.filename).parent.name == "data")
    if held != sorted(tensor.nbytes for tensor in tensors.values()):
        raise ValueError(f"{path}: its tensors take other sizes than its records have.")
