"""A TensorDict that torch.save wrote, as mapped tensors: no line of TensorDict runs, nothing is copied.

There are two layouts. That of 2023 (tensordict 0.2) pickles the object with its attributes, that of today a call with
them. Inert stand-ins take the place of the classes and of the call.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from worldloom_rl.pretrained.pickles import StateTaker
from worldloom_rl.pretrained.tensor_files import read_tensor_file


class _Attributes(StateTaker):
    """Where a TensorDict stood: its attributes, as the file has them."""

    def __init__(self, attributes: object = None) -> None:
        self.attributes = attributes

    def set_state(self, state: object) -> None:
        self.attributes = state


def _without_attributes() -> _Attributes:
    return _Attributes()


def _with_attributes(_: object, attributes: object) -> _Attributes:
    return _Attributes(attributes)


def _dictionary() -> dict[object, object]:
    return {}


def _members(members: object = ()) -> object:
    return members


_KNOWN: Mapping[str, object] = MappingProxyType(
    {
        "tensordict.tensordict.TensorDict": _without_attributes,
        "tensordict.utils._StringOnlyDict": _dictionary,
        "tensordict._td.TensorDict": "TensorDict",
        "tensordict._reductions._make_td": _with_attributes,
        "__builtin__.set": _members,
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
    content = read_tensor_file(path, "TensorDict", _KNOWN, summed=False)
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
