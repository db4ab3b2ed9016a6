"""Stopping a run from outside: Ctrl-C and SIGTERM are noted, and acted upon where the run can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn

from worldloom_rl import ranks

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The run was asked to stop by a signal; raised where all that it goes on from is whole."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)  # what it is made of again in another process
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {self.number.name}"

    def end(self) -> NoReturn:
        """Ends the program as the signal would have: KeyboardInterrupt, or SystemExit 143 for SIGTERM."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.number)


class Interruption:
    """While its block runs, the first Ctrl-C or SIGTERM is only noted, for `check`; a second one acts as ever.

    Outside the main thread, where Python delivers no signals, it notices nothing.
    """

    def __init__(self) -> None:
        self._asked: signal.Signals | None = None
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()

    def check(self) -> None:
        """Raises Interrupted if a signal came to any of the processes, all of which call it."""
        if ranks.any_of(self._asked is not None):
            raise Interrupted(next(number for number in ranks.gathered(self._asked) if number is not None))

    def check_alone(self) -> None:
        """Raises Interrupted if a signal came to this process; the others are to hear of it."""
        if self._asked is not None:
            raise Interrupted(self._asked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = signal.Signals(number)
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
