"""The one strict comparison of the tensors that a file has with those that a model needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from worldloom_rl.config import did_you_mean

_DTYPES = {  # as safetensors names them
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


_HALF = {"F16", "BF16"}
_PRECISIONS = {"F32", "F64", *_HALF}
_LONGEST_NAME = 80  # in a message
_LONGEST_LIST = 200  # of what is wrong, in a message


class TensorKind(NamedTuple):
    """Shape and dtype of a tensor; as a need, a dtype None is any."""

    shape: tuple[int, ...]
    dtype: str | None = None


class Mismatch(NamedTuple):
    """A tensor that is missing (not found), extra (not needed) or other than it should be."""

    name: str
    found: TensorKind | None
    needed: TensorKind | None

    def told(self, noun: str = "tensor") -> str:
        """What is wrong with a file, such as "lacks 'head.weight' of shape (2, 3)"."""
        name = shown(self.name)
        if self.found is None:
            return f"lacks {name} of shape {self.needed.shape if self.needed else ()}"
        if self.needed is None:
            return f"has the extra {noun} {name} of shape {self.found.shape}"
        if self.found.shape != self.needed.shape:
            return f"has {name} of shape {self.found.shape} where {self.needed.shape} is needed"
        return f"has {name} of type {self.found.dtype} where {self.needed.dtype} is needed"


def mismatches(found: Mapping[str, TensorKind], needed: Mapping[str, TensorKind]) -> list[Mismatch]:
    """All differences: first what is missing, then what is extra, then what is other than needed."""
    missing = [Mismatch(name, None, kind) for name, kind in needed.items() if name not in found]
    extra = [Mismatch(name, kind, None) for name, kind in found.items() if name not in needed]
    common = [Mismatch(name, kind, needed[name]) for name, kind in found.items() if name in needed]
    return [*missing, *extra, *(each for each in common if each.needed and not _meets(each.found, each.needed))]


def _meets(found: TensorKind | None, needed: TensorKind) -> bool:
    return found is not None and found.shape == needed.shape and needed.dtype in (None, found.dtype)


def refuse_mismatches(wrong: Sequence[Mismatch], what: str, noun: str = "tensor") -> None:
    """Raise ValueError, naming the first of them, if there are any.

    Args:
        what: the message's begin, such as "This is no checkpoint: it".
    """
    if wrong:
        told = wrong[0].told(noun)
        count = 1
        while count < len(wrong) and len(told) + len(wrong[count].told(noun)) < _LONGEST_LIST:
            told += f"; it {wrong[count].told(noun)}"
            count += 1
        more = f"; and {len(wrong) - count} more" if count < len(wrong) else ""
        raise ValueError(f"{what} {told}{more}.")


def shown(name: str) -> str:
    """A name as messages show it."""
    return repr(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…")


def in_one_precision(found: Mapping[str, TensorKind], expected: Mapping[str, Tensor]) -> Mapping[str, TensorKind]:
    """What a file's tensors are once they are read: where all have one precision, they get that of the model.

    A model that was cast to half precision keeps some numbers in single precision, which counts as one: where most
    tensors are half ones, the single ones are those.

    Args:
        found: dtypes as safetensors names them.
    """
    real = [kind.dtype for kind in found.values() if kind.dtype in _PRECISIONS]
    ours = {_DTYPES[value.dtype] for value in expected.values()} & _PRECISIONS
    mostly_half = 2 * sum(dtype in _HALF for dtype in real) > len(real)
    theirs = {*real} - ours if mostly_half else {*real}
    if len(theirs) != 1 or len(ours) != 1:
        return found
    return {name: kind._replace(dtype=min(ours)) if kind.dtype in theirs else kind for name, kind in found.items()}


def check_tensors(found: Mapping[str, TensorKind], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise ValueError, naming the first of them, where the file differs from a model's state dict.

    Args:
        found: dtypes as safetensors names them, such as "F32".
        source: of the file, for the message.
    """
    needed = {name: TensorKind(tuple(value.shape), _DTYPES[value.dtype]) for name, value in sorted(expected.items())}
    for name, is_there, wanted in mismatches(dict(sorted(found.items())), needed):
        if is_there is None:
            raise ValueError(f"{source} lacks the tensor {name!r} of shape {needed[name].shape}.")
        if wanted is None:
            raise ValueError(
                f"{source} has an extra tensor {name!r} of shape {is_there.shape}.{did_you_mean(name, expected)}"
            )
        raise ValueError(f"{source}: the tensor {name!r} is {tuple(is_there)}, but the model needs {tuple(wanted)}.")
