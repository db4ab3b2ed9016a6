"""How the processes that learn together meet, and how they end: whatever ends one of them ends all, by its reason."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from worldloom_rl import ranks
from worldloom_rl.ranks import Lost
from worldloom_rl.training import torchrun

_TO_MEET = timedelta(minutes=5)  # for all to have started
_PATIENCE = timedelta(minutes=30)  # with the slowest, whose evaluation or environment may take that long
_TO_TELL = timedelta(seconds=5)  # for one that ended to have said why
_TO_READ = 10.0  # seconds for the others to have read it
_REASON, _LEFT = "worldloom/reason", "worldloom/left"  # in the store where they meet


@contextmanager
def joined() -> Iterator[None]:
    """Within it the processes that torchrun started know each other; a process by itself is as before.

    The first that raises leaves its reason where all of them met, and the others raise it as `Lost`; a process that is
    gone without a word is noticed where it is missed. None of them waits for ever.
    """
    if ranks.count() > 1 or torchrun.processes() == 1:
        yield
        return
    meeting = _Meeting()
    ranks.meaning = meeting.lost
    try:
        yield
    except BaseException as error:
        meeting.tell(error)
        raise
    finally:
        ranks.meaning = None
        meeting.leave()


class _Meeting:
    """The processes' group, and the store by which it was made: torchrun's own, which lives longer than they do."""

    def __init__(self) -> None:
        self._ends = self._has_told = False
        try:
            store, self._number, self._count = next(rendezvous("env://", timeout=_TO_MEET))
            # torchrun's --max-restarts starts all anew at the same store, where what those before said still stands.
            self.store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
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
        """Ends the group. Whoever left a reason stays until the others have read it, else torchrun would end them; the
        first, in whose process the store may be, stays at a good end too."""
        dist.destroy_process_group()
        with suppress(RuntimeError):
            left, until = self.store.add(_LEFT, 1), time.monotonic() + _TO_READ
            stays = self._has_told or (self._number == 0 and not self._ends)
            while stays and left < self._count and time.monotonic() < until:
                time.sleep(0.02)
                left = self.store.add(_LEFT, 0)
        if not self._ends and self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _reason(self, patience: timedelta) -> str:
        try:
            self.store.wait([_REASON], patience)
            return str(self.store.get(_REASON), "utf-8")
        except RuntimeError:  # nobody left one
            return ""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:160]
