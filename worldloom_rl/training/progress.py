"""The live line of a run: it stays in place on a terminal; elsewhere a new one comes every few seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from worldloom_rl import ranks

_PLAIN_INTERVAL = 5.0  # seconds between plain lines


class LiveLine:
    """Shows phase, how far the run is and how fast it goes, metrics and the time left; use as a context manager.

    Of several processes only the first shows anything.

    Args:
        total: of the whole run, in the clock's unit.
        start: done before, for a resumed run.
        unit: what is counted, such as "steps".
    """

    def __init__(self, total: int, start: int = 0, unit: str = "steps") -> None:
        self.console = Console(soft_wrap=True, quiet=ranks.rank() > 0)
        self.total = total
        self.unit = unit
        self._begin = time.monotonic()
        self._start = start
        self._shown = 0.0
        columns = (
            TextColumn("{task.description}", markup=False),
            TextColumn(f"{{task.completed}}/{{task.total}} {unit}"),
            TextColumn("{task.fields[rate]:.1f}/s, left"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[metrics]}", markup=False),
        )
        self._bar = Progress(*columns, console=self.console, transient=True) if self.console.is_terminal else None
        self._task = (
            self._bar.add_task("starting", total=total, completed=start, rate=0.0, metrics="") if self._bar else None
        )

    def __enter__(self) -> LiveLine:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def due(self) -> bool:
        """Whether enough time has passed since the last line; ask before computing metrics."""
        return time.monotonic() - self._shown >= (0.5 if self._bar else _PLAIN_INTERVAL)

    def leave_out(self, seconds: float) -> None:
        """Count this time neither in the rate nor in the time left; for evaluations."""
        self._begin += seconds

    def show(self, phase: str, done: int, metrics: Mapping[str, float]) -> None:
        """Show the state of the run now."""
        self._shown = time.monotonic()
        rate = (done - self._start) / max(self._shown - self._begin, 1e-9)
        text = "  ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=phase, rate=rate, metrics=text)
            return
        left = (self.total - done) / rate if rate > 0 else float("inf")
        remaining = "?" if left == float("inf") else f"{int(left) // 60}:{int(left) % 60:02d}"
        pace = f"{done}/{self.total} {self.unit}  {rate:.1f} {self.unit}/s"
        self.say(f"{phase}  {pace}  {text}  left {remaining}")

    def say(self, message: str) -> None:
        """A line that stays."""
        self.console.print(message, highlight=False, markup=False, emoji=False)
