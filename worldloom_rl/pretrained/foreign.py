"""A state dict in a checkpoint of other people: found, its names and its precision as the official code has them.

Read where nothing is ambiguous: whatever wrapped the modules (compilation, distribution, a trainer), beside whatever
else was saved. Anything that could mean two things is refused in one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import TypeVar

import torch
from torch import Tensor

from worldloom_rl.pretrained.tensors import shown

# What torch.compile, data parallelism, FSDP, activation checkpointing and torch's averages put before a module's names.
_WRAPPERS = re.compile(
    r"(^|\.)(?:(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.)+"
)
_DEEPEST = 4  # dictionaries around a state dict, and names before its own
_SHARED = 4  # times the numbers of a file that its tensors may have together: Q functions stand there twice, as views

StateDict = dict[str, object]
Name = TypeVar("Name")  # a key of a dictionary in a file: a text, where it is a tensor's name
IsOne = Callable[[Set[str]], bool]


def find_state_dict(content: object, is_one: IsOne, what: str) -> StateDict:
    """The one state dict in a checkpoint, its names without those of wrappers.

    Args:
        is_one: whether these names are those of a state dict that is looked for.
        what: the file is, for messages.
    Raises ValueError if there is none, or if there are several.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{what} holds a {type(content).__name__}, but a dict of named tensors is expected.")
    found = list(_state_dicts(content, is_one, "", _DEEPEST, set()))
    if len(found) > 1:
        raise ValueError(
            f"{what} holds weights in {_listed([place for place, _ in found])}; save those that you mean by themselves."
        )
    if found:
        return found[0][1]
    inner = content.get("model", content)  # its own checks name what is missing
    if not isinstance(inner, Mapping):
        raise ValueError(f"{what} holds a {type(inner).__name__}, but a dict of named tensors is expected.")
    return without_wrappers(inner, is_one)


def _state_dicts(
    content: Mapping[Name, object], is_one: IsOne, place: str, depth: int, met: set[int]
) -> Iterator[tuple[str, StateDict]]:
    """Places and state dicts; what is met in two places is met once."""
    met.add(id(content))
    if any(isinstance(value, Tensor) for value in content.values()):
        plain = without_wrappers(content, is_one)
        if is_one(plain.keys()):
            yield place, plain
            return
    for name, value in content.items():
        if depth and isinstance(value, Mapping) and id(value) not in met:
            yield from _state_dicts(value, is_one, f"{place}.{name}" if place else str(name), depth - 1, met)


def without_wrappers(state_dict: Mapping[Name, object], is_one: IsOne) -> StateDict:
    """The entries by their names without those of wrappers, and without names that stand before all of them.

    Raises ValueError if two entries have the same name then.
    """
    plain: StateDict = {}
    for name, value in state_dict.items():
        short = _WRAPPERS.sub(r"\1", str(name))
        if short in plain:
            raise ValueError(f"The checkpoint has the tensor {shown(short)} under several prefixes; which is meant?")
        plain[short] = value
    for _ in range(_DEEPEST):
        first = {name.partition(".")[0] for name in plain}
        if len(first) != 1 or is_one(plain.keys()) or not all("." in name for name in plain):
            break
        plain = {name.partition(".")[2]: value for name, value in plain.items()}
    return plain


def tensors_of(state_dict: Mapping[Name, object]) -> dict[str, Tensor]:
    """The entries of a state dict in single precision. Raises ValueError, naming it, for one that is no tensor."""
    tensors: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if type(value) not in (Tensor, torch.nn.Parameter) or not isinstance(name, str):
            kind = type(value).__name__
            raise ValueError(f"The checkpoint's entry {shown(str(name))} is a {kind}, but a tensor is expected.")
        assert isinstance(value, Tensor)
        tensors[name] = value
    check_own_numbers(tensors)
    return in_single_precision(tensors)


def check_own_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless tensors have numbers of their own in memory: not one for all, and none without any."""
    storages: dict[int, int] = {}
    for name, value in tensors.items():
        strided = value.layout == torch.strided and value.device.type != "meta"
        if not strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(
                f"The checkpoint's tensor {shown(name)} of shape {tuple(value.shape)} lacks numbers of its own."
            )
        storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    needed = sum(value.numel() * value.element_size() for value in tensors.values())
    if needed > _SHARED * sum(storages.values()):
        raise ValueError(
            f"The checkpoint's tensors have {needed} bytes, but only {sum(storages.values())} of their own."
        )


def in_single_precision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a foreign file in single precision, if that is unambiguous: half ones, which lose nothing by it, and
    double ones where all are. Others keep theirs, for a check to name."""
    kinds = {value.dtype for value in tensors.values() if value.is_floating_point()}
    taken = {torch.float16, torch.bfloat16, *(kinds if kinds == {torch.float64} else ())}
    return {name: value.float() if value.dtype in taken else value for name, value in tensors.items()}


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise ValueError, naming the first tensor that holds a number that is not finite."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{where} has {shown(name)} with values that are not finite: its training had diverged.")


def _listed(places: Sequence[str]) -> str:
    return " and ".join(shown(place) for place in places[:3]) + (" and more" if len(places) > 3 else "")
