"""The processes that learn one model together: what each must know of the others' parts of a batch.

torchrun starts them. Where there is one, every function gives back what it was given, and nothing is asked of others.
Gradients are averaged after the backward pass: DistributedDataParallel acts on what passes through its own `forward`,
and a world model is asked by its verbs. How they meet, and end, stands in `training.meeting`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


class Lost(ConnectionError):
    """Another process ended, or did not answer.

    Args:
        reason: it left, as a sentence; "" if it left none.
    """

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(reason or text)
        self.told = bool(reason)


# What a failure of what all do at once means, while they know each other.
meaning: Callable[[RuntimeError], Lost] | None = None


def count() -> int:
    """How many processes learn together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if count() > 1 else 0


# ------------------------------------------------------------------ tensors


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """[ranks · N] the entries of x (any shape, the same everywhere) of all processes, in order, without gradient."""
    flat = x.detach().flatten()
    if count() == 1:
        return flat
    parts = [torch.empty_like(flat) for _ in range(count())]
    with _together():
        dist.all_gather(parts, flat.contiguous())
    return torch.cat(parts)


def mean(x: Tensor) -> Tensor:
    """The mean of x over the processes, with a gradient that `average_gradients` makes that of the whole batch."""
    return x if count() == 1 else _Mean.apply(x)  # type: ignore[no-untyped-call]


class _Mean(torch.autograd.Function):
    """Its gradient is a mean as well: what a process makes of the mean, such as a batch norm, is its own."""

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return _average(x)

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return _average(gradient)


def _average(x: Tensor) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    with _together():
        dist.all_reduce(total)
    return total / count()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [...], the latter by the number of rows, of the rows [N, ...] of all processes."""
    middle = mean(x.mean(0))
    return middle, mean((x - middle).square().mean(0))


@torch.no_grad()
def first(x: Tensor) -> Tensor:
    """The first process' x, in every one: a draw that all parts of a batch share."""
    if count() == 1:
        return x
    shared = x.contiguous()
    with _together():
        dist.broadcast(shared, 0)
    return shared


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces gradients by their means over the processes; parameters without one have none anywhere."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        alike = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = _average(torch.cat([gradient.flatten() for gradient in alike]))
        for gradient, part in zip(alike, torch.split(flat, [each.numel() for each in alike]), strict=True):
            gradient.copy_(part.view_as(gradient))


# ------------------------------------------------------------------ numbers and objects


def any_of(flag: bool) -> bool:
    """Whether it is so in any process."""
    if count() == 1:
        return flag
    found = torch.tensor(float(flag))
    with _together():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def gathered(value: T) -> list[T]:
    """What each process gives, in order, in every one; none goes on before all have come here."""
    if count() == 1:
        return [value]
    box = [value] * count()
    with _together():
        dist.all_gather_object(box, value)
    return box


def told(value: T) -> T:
    """What the first process gives, in every one; none goes on before all have come here."""
    return gathered(value)[0]


def wait() -> None:
    """None goes on before all have come here."""
    gathered(None)


# ------------------------------------------------------------------ parts


def share(total: int, what: str) -> int:
    """This process' part of a number. Raises ValueError if the processes cannot have equal ones."""
    part, rest = divmod(total, count())
    if rest:
        raise ValueError(f"{what} is {total}, which {count()} processes cannot share equally: take a multiple of them.")
    return part


def part(total: int) -> int:
    """This process' part of a number of things that need not be alike: the first ones take the rest."""
    return total // count() + (rank() < total % count())


def process_seed(seed: int) -> int:
    """What a process seeds that draws by itself, such as its environments; that of the run in the first."""
    return int(np.random.SeedSequence((seed, rank())).generate_state(1)[0]) >> 1 if rank() else seed


@torch.no_grad()
def part_ways(module: nn.Module, seed: int) -> None:
    """All go on with the first one's weights, and with draws of their own."""
    if count() == 1:
        return
    for value in module.state_dict().values():
        value.copy_(first(value))
    torch.manual_seed(process_seed(seed))


@contextmanager
def _together() -> Iterator[None]:
    """Around what all do at once."""
    try:
        yield
    except RuntimeError as error:
        if meaning is None:  # a group of somebody else's making
            raise
        raise meaning(error) from error
