"""What a benchmark measures: a piece of work, its claim, and what else can do the same work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Call = Callable[[], object]
Mode = Literal["eager", "compiled", "recorded"]  # the last as a CUDA graph


@dataclass(frozen=True)
class Peer:
    """Another library's way to do the same work.

    Args:
        name: as the table shows it.
        make: gives the call that does the work once; None if the library can't be brought to do it.
        note: what is the same and what is not, or why it can't be done.
    """

    name: str
    make: Callable[[], Call] | None
    note: str


@dataclass(frozen=True)
class Workload:
    """A piece of work that can be repeated.

    Args:
        claim: one line: what is done.
        make: (mode) → the call that does the work once. Seeds are set before.
        reference_gflop: floating-point operations of the reference algorithm's matrix products, two a multiply-add,
            in 10⁹; None where the work is not made of products.
        repeats: calls a round, whose mean is one measurement; for work of a few milliseconds.
        needs: a module that it cannot be done without; where that is missing, the row says so.
        peers: by the name that `--against` takes.
    """

    name: str
    claim: str
    make: Callable[[Mode], Call]
    reference_gflop: float | None = None
    repeats: int = 1
    needs: str = ""
    peers: tuple[Peer, ...] = ()
