"""The processes that learn one model together: what each must know of the others' parts of a batch.

torchrun starts them. Where there is one, every function gives back what it was given, and nothing is asked of others.
Gradients are averaged after the backward pass: DistributedDataParallel acts on what passes through its own `forward`,
and a world model is asked by its verbs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


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
    told = torch.tensor(float(flag))
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told)


def gathered(value: T) -> list[T]:
    """What each process gives, in order, in every one; none goes on before all have come here."""
    if count() == 1:
        return [value]
    box = [value] * count()
    dist.all_gather_object(box, value)
    return box


def share(total: int, what: str) -> int:
    """This process' part of a number. Raises ValueError if the processes cannot have equal ones."""
    part, rest = divmod(total, count())
    if rest:
        raise ValueError(f"{what} is {total}, which {count()} processes cannot share equally: take a multiple of them.")
    return part
