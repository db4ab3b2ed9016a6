"""The processes that learn one model together: what each must know of the others' parts of a batch.

torchrun starts them. Where there is one, every function gives back what it was given, and nothing is asked of others.
Gradients are averaged after the backward pass: DistributedDataParallel acts on what passes through its own `forward`,
and a world model is asked by its verbs. Whatever ends one of them ends all, by the same reason: see `joined`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from worldloom_rl import torchrun

T = TypeVar("T")

_TO_MEET = timedelta(minutes=5)  # for all to have started
_PATIENCE = timedelta(minutes=30)  # with the slowest, whose evaluation or environment may take that long
_TO_TELL = timedelta(seconds=5)  # for one that ended to have said why
_TO_READ = 10.0  # seconds for the others to have read it
_REASON, _LEFT = "worldloom/reason", "worldloom/left"  # in the store where they meet


class Lost(ConnectionError):
    """Another process ended, or did not answer.

    Args:
        reason: it left, as a sentence; "" if it left none.
    """

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(reason or text)
        self.told = bool(reason)


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


# ------------------------------------------------------------------ beginning and end


@contextmanager
def joined() -> Iterator[None]:
    """Within it the processes that torchrun started know each other; a process by itself is as before.

    The first that raises leaves its reason where all of them met, and the others raise it as `Lost`; a process that is
    gone without a word is noticed where it is missed. None of them waits for ever.
    """
    global _meeting  # a process has one
    if count() > 1 or torchrun.processes() == 1:
        yield
        return
    meeting = _meeting = _Meeting()
    try:
        yield
    except BaseException as error:
        meeting.tell(error)
        raise
    finally:
        meeting.leave()
        _meeting = None


class _Meeting:
    """The processes' group, and the store by which it was made: torchrun's own, which lives longer than they do."""

    def __init__(self) -> None:
        self._ends = self._has_told = False
        try:
            self.store, self._number, self._count = next(dist.rendezvous("env://", timeout=_TO_MEET))
            numbers = {"rank": self._number, "world_size": self._count}
            dist.init_process_group("gloo", store=self.store, timeout=_PATIENCE, **numbers)
        except RuntimeError as error:
            raise Lost("", f"{torchrun.processes()} processes did not meet: {_first_line(error)}") from error
        in_main = threading.current_thread() is threading.main_thread()
        self._before = signal.signal(signal.SIGTERM, self._stop) if in_main else None

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """torchrun ends all when one has ended; but what is ending already shall say why."""
        if not self._ends:
            raise SystemExit(128 + number)

    def lost(self, error: RuntimeError) -> Lost:
        """What it means that the others could not be asked."""
        self._ends = True
        unknown = (
            f"another of the {self._count} processes does not answer: it was killed, hangs, or its machine is gone "
            f"({_first_line(error)})."
        )
        return Lost(self._reason(_TO_TELL), unknown)

    def tell(self, error: BaseException) -> None:
        """Leaves the reason for the others. Raises Lost if the error only follows from one of theirs."""
        self._ends = True
        if isinstance(error, Lost):
            return
        if isinstance(error, RuntimeError) and (reason := self._reason(timedelta(milliseconds=1))):
            raise Lost(reason) from error
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        why = "it was stopped." if stopped else (text or type(error).__name__)
        with suppress(RuntimeError):  # the store is gone
            self.store.compare_set(_REASON, "", f"process {self._number} of {self._count} ended the run: {why}")
            self._has_told = True

    def leave(self) -> None:
        """Ends the group; whoever left a reason stays until the others have read it, else torchrun would end them."""
        dist.destroy_process_group()
        with suppress(RuntimeError):
            left, until = self.store.add(_LEFT, 1), time.monotonic() + _TO_READ
            while self._has_told and left < self._count and time.monotonic() < until:
                time.sleep(0.02)
                left = self.store.add(_LEFT, 0)
        if not self._ends and self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _reason(self, patience: timedelta) -> str:
        try:
            self.store.wait([_REASON], patience)
            return self.store.get(_REASON).decode()
        except RuntimeError:  # nobody left one
            return ""


_meeting: _Meeting | None = None


@contextmanager
def _together() -> Iterator[None]:
    """Around what all do at once: turns its failure into what it means."""
    try:
        yield
    except RuntimeError as error:
        if _meeting is None:  # a group of somebody else's making
            raise
        raise _meeting.lost(error) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:160]
