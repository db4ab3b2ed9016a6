"""How entries of rows are kept in fewer bytes: groups of one-hot values exactly, real numbers within a bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from worldloom_rl.keys import as_tuple

_NONE = 255  # of a group without a class: zeros, as before an episode's first observation


class LeafCodec(Protocol):
    """One entry as it is kept, which `str` of it tells. What is kept already stays as it is."""

    def encode(self, value: Tensor) -> Tensor:
        """As it is kept [N, …], of a value [N, …]."""

    def decode(self, kept: Tensor) -> Tensor:
        """The value [*any, …] of what is kept."""


Codec = Mapping[tuple[str, ...], LeafCodec]  # by key; other entries are kept as they are


@dataclass(frozen=True)
class OneHotBytes:
    """Groups [G, K] of float32, one-hot or zeros, as G bytes: exact, at most 255 classes. 4·K times smaller."""

    classes: int

    def __str__(self) -> str:
        return "a byte a group"

    def __post_init__(self) -> None:
        if not 1 <= self.classes <= _NONE:
            raise ValueError(f"One byte tells at most {_NONE} classes apart, got {self.classes}.")

    def encode(self, value: Tensor) -> Tensor:
        """Raises ValueError for anything but zeros and ones, of which a group has at most one."""
        if value.dtype == torch.uint8:
            return value
        most, index = value.max(-1)
        whole = torch.count_nonzero(value, -1) == (most == 1)
        if value.shape[-1] != self.classes or not bool(whole.all()):
            raise ValueError(
                f"Replay keeps groups of {self.classes} one-hot values as bytes, but values {list(value.shape)} with "
                f"the maximum {float(value.max()):g} are others: leave its codec out (--replay-codec none)."
            )
        return torch.where(most == 1, index, _NONE).to(torch.uint8)

    def decode(self, kept: Tensor) -> Tensor:
        table = torch.eye(_NONE + 1, self.classes, device=kept.device)  # rows behind the classes are zeros
        return torch.nn.functional.embedding(kept.int(), table)


@dataclass(frozen=True)
class BFloat16:
    """float32 as bfloat16, half the bytes: the nearest number, at most 2⁻⁸ of it away."""

    def __str__(self) -> str:
        return "bfloat16"

    def encode(self, value: Tensor) -> Tensor:
        return value.to(torch.bfloat16)

    def decode(self, kept: Tensor) -> Tensor:
        return kept.float()


def encoded(rows: TensorDictBase, codec: Codec) -> TensorDictBase:
    """Rows [N] as they are kept; themselves where nothing is."""
    if not codec:
        return rows
    kept = rows.copy()
    for key in codec.keys() & {as_tuple(key) for key in rows.keys(True, True)}:
        kept[key] = codec[key].encode(rows[key])
    return kept


def decoded(rows: TensorDictBase, codec: Codec) -> TensorDictBase:
    """The rows [*any] with the values of what is kept, in place."""
    for key in codec.keys() & {as_tuple(key) for key in rows.keys(True, True)}:
        rows[key] = codec[key].decode(rows[key])
    return rows


def spared_bytes(codec: Codec, leaves: Mapping[NestedKey, torch.Size]) -> int:
    """Bytes of a row that a codec spares, where its entries are float32 of these shapes."""
    spared = 0
    for key, shape in leaves.items():
        if as_tuple(key) in codec:
            spared += 4 * shape.numel() - codec[as_tuple(key)].encode(torch.zeros(1, *shape)).nbytes
    return spared
