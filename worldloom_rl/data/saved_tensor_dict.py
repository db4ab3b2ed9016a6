"""A TensorDict that torch.save wrote, as mapped tensors: no line of TensorDict runs, nothing is copied.

There are two layouts. That of 2023 (tensordict 0.2) pickles the object with its attributes, that of today a call with
them. Inert stand-ins take the place of the classes and of the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from worldloom_rl.pretrained.pickles import StateTaker
from worldloom_rl.pretrained.tensor_files import map_tensor_file


class _Saved(StateTaker):
    """Where a TensorDict stood: its attributes, as the file has them."""

    attributes: object = None

    def set_state(self, state: object) -> None:
        self.attributes = state


def _made() -> _Saved:
    return _Saved()


def _called(kind: object, attributes: object) -> _Saved:
    saved = _Saved()
    saved.set_state(attributes)
    return saved


def _dictionary() -> dict[object, object]:
    return {}


def _set(items: object) -> object:
    return items


_MEANINGS: Mapping[str, object] = MappingProxyType(
    {
        "tensordict.tensordict.TensorDict": _made,
        "tensordict.utils._StringOnlyDict": _dictionary,
        "tensordict._td.TensorDict": "TensorDict",
        "tensordict._reductions._make_td": _called,
        "__builtin__.set": _set,
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
    content = map_tensor_file(path, _MEANINGS)
    attributes = content.attributes if isinstance(content, _Saved) else None
    if not isinstance(attributes, dict) or not isinstance(attributes.get("_tensordict"), dict):
        kind = "Tensor" if isinstance(content, Tensor) else type(content).__name__
        raise ValueError(f"{path} holds no TensorDict, but {kind}: take a file of tdmpc2 or newt.")
    tensors: dict[str, Tensor] = attributes["_tensordict"]
    batch = attributes.get("_batch_size")
    if attributes.get("_td_dim_names") is not None:
        raise ValueError(f"{path}: its dimensions have names, which files of tdmpc2 and newt have not.")
    if not isinstance(batch, torch.Size) or len(batch) != dimensions:
        found = f"{len(batch)} dimensions" if isinstance(batch, torch.Size) else f"a {type(batch).__name__}"
        raise ValueError(f"{path}: its batch is {found}, expected {dimensions} dimension{'s' * (dimensions > 1)}.")
    missing = [name for name, leaf in leaves.items() if not leaf.optional and name not in tensors]
    unknown = [name for name in tensors if name not in leaves]
    if missing or unknown:
        raise ValueError(
            f"{path} lacks {missing} and has the unknown {sorted(str(name)[:40] for name in unknown)[:5]}."
        )
    for name, tensor in tensors.items():
        _check_leaf(f"{path}: {name!r}", tensor, leaves[name], batch)
    _check_apart(path, tensors)
    return tensors


def _check_leaf(name: str, tensor: object, leaf: Leaf, batch: torch.Size) -> None:
    if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
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


def _check_apart(path: Path, tensors: Mapping[str, Tensor]) -> None:
    ordered = sorted((tensor.data_ptr(), tensor.nbytes, name) for name, tensor in tensors.items())
    for (start, size, name), (next_start, _, other) in pairwise(ordered):
        if next_start < start + size:
            raise ValueError(f"{path}: {name!r} and {other!r} share memory.")
