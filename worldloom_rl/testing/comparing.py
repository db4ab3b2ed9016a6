"""How the kit compares, and how a broken rule is told: an AssertionError that names the model and the rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from worldloom_rl.keys import as_tuple
from worldloom_rl.world_model import Latent, WorldModel


def require(holds: bool, subject: WorldModel, broken: str) -> None:
    """Raise AssertionError naming the broken rule unless it holds."""
    if not holds:
        raise AssertionError(f"{type(subject).__name__} breaks the world model contract: {broken}")


def leaves_of(td: TensorDictBase) -> dict[tuple[str, ...], Tensor]:
    """The tensors of a tensordict by whole key."""
    return {as_tuple(key): value for key, value in td.items(include_nested=True, leaves_only=True)}


def require_equal(
    subject: WorldModel, found: TensorDictBase, expected: TensorDictBase, claim: str, *, tolerance: float
) -> None:
    """Raise AssertionError unless both hold the same keys and values; tolerance 0 means bit for bit."""
    left, right = leaves_of(found), leaves_of(expected)
    require(set(left) == set(right), subject, f"{claim}; only one of them has {sorted(set(left) ^ set(right))}.")
    for key, value in left.items():
        other = right[key]
        same_kind = value.shape == other.shape and value.dtype == other.dtype
        kinds = f"{tuple(value.shape)} {value.dtype} against {tuple(other.shape)} {other.dtype}"
        require(same_kind, subject, f"{claim}; {key} is {kinds}.")
        if tolerance and value.is_floating_point():
            equal = torch.allclose(value, other, rtol=tolerance, atol=tolerance)
        else:
            equal = torch.equal(value, other)
        gap = (value.double() - other.double()).abs().max().item() if value.numel() else 0.0
        require(equal, subject, f"{claim}; {key} differs by up to {gap:.2e}.")


def require_key_error(
    subject: WorldModel, function: Callable[[TensorDictBase], object], given: TensorDictBase, key: NestedKey, name: str
) -> None:
    """Raise AssertionError unless `function` names `key` in a KeyError when the tensordict lacks it."""
    try:
        function(given.exclude(key))
    except KeyError as error:
        require(as_tuple(key)[-1] in str(error), subject, f"the KeyError of {name} without {key!r} does not name it.")
    else:
        require(False, subject, f"{name} does not miss {key!r}: it must raise a KeyError that names the key.")


def require_latent(subject: WorldModel, latent: Latent, batch: tuple[int, ...], name: str) -> None:
    """Raise AssertionError unless the latent's leaves [*batch, …] have the shapes, dtypes and values of their specs."""
    for leaf, spec in subject.latent_spec.items():
        value = latent[leaf]
        wanted = (*batch, *spec.shape)
        kind = f"{tuple(value.shape)} {value.dtype}"
        same = tuple(value.shape) == wanted and value.dtype == spec.dtype
        require(same, subject, f"{name} gives the latent leaf {leaf!r} as {kind}, its spec says {wanted} {spec.dtype}.")
        inside = spec.expand(*wanted).is_in(value.detach())
        require(inside, subject, f"{name} gives the latent leaf {leaf!r} values outside its spec {spec}.")


@contextmanager
def untouched(subject: WorldModel, td: TensorDictBase, doer: str) -> Iterator[None]:
    """Raise AssertionError if the tensors of `td` are changed in place, or leaves added or removed."""
    before = {key: (value, value.detach().clone()) for key, value in leaves_of(td).items()}
    yield
    for key, (value, kept) in before.items():
        require(torch.equal(value, kept), subject, f"{doer} changed its input {key} in place.")
    require(set(leaves_of(td)) == set(before), subject, f"{doer} changed the keys of its input tensordict.")
