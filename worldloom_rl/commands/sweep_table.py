"""The table of a sweep: a row a run with its state, steps, return and the time that is left."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worldloom_rl.report.run_progress import read_progress
from worldloom_rl.training.owner import is_gone

_PLAIN_INTERVAL = 30.0  # seconds between plain lines of a run that goes on
FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
_ORDER = {"running": 0, "finishing": 1, FAILED: 2, STOPPED: 3, "waiting": 4, FINISHED: 5}
_STYLES = {"running": "cyan", FAILED: "bold red", STOPPED: "yellow", FINISHED: "green"}


class Outcome(NamedTuple):
    """How the work on a run ended: FINISHED, FAILED or STOPPED, and in a sentence why."""

    state: str
    told: str = ""
    ours: bool = False  # the program is at fault


class Row:
    """What is known of one run, looked at again and again."""

    def __init__(self, run: Path) -> None:
        self.run, self.outcome = run, None
        self.progress = read_progress(run)
        self._stale = self.progress.owner  # of a process that is gone: what is told is only of this sweep
        self._owners: list[str] = []
        self._since = (0.0, 0)

    outcome: Outcome | None

    def look(self) -> None:
        """Reads the run's files."""
        self.progress = read_progress(self.run)
        owner = self.progress.owner
        if owner and owner != self._stale and owner not in self._owners:
            self._owners.append(owner)
            self._since = (time.monotonic(), self.progress.steps)

    @property
    def state(self) -> str:
        """In a word."""
        if self.outcome is not None:
            return self.outcome.state
        if not self._owners or is_gone(self.progress.owner):
            return "waiting"
        return "finishing" if self.progress.finished else "running"

    @property
    def told(self) -> str:
        """What happened, in a sentence; empty if nothing did."""
        if self.outcome is not None and self.outcome.told:
            return self.outcome.told
        ended = len(self._owners) - 1
        return f"went on by itself after {ended} ended process{'es' * (ended > 1)}" if ended > 0 else ""

    def cells(self) -> list[Text]:
        """Run with what happened, state, steps, return and time left."""
        progress = self.progress
        return [
            Text(self.run.name).append(f"\n{self.told}" if self.told else "", style="dim"),
            Text(self.state, style=_STYLES.get(self.state, "")),
            Text(f"{progress.steps:,}/{progress.total:,}" if progress.total else ""),
            Text("" if progress.mean_return is None else f"{progress.mean_return:.1f}".replace("-", "−")),
            Text(self._left()),
        ]

    def _left(self) -> str:
        """The time left at the rate since the process began; it counts its evaluations in."""
        begun, first = self._since
        done = self.progress.steps - first
        if self.state != "running" or done <= 0:
            return ""
        seconds = int((self.progress.total - self.progress.steps) / done * (time.monotonic() - begun))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class SweepTable:
    """Shows the rows while its block runs: in place on a terminal, elsewhere a line whenever a state changes."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self.console = Console(file=sys.stdout)  # whatever takes its place later
        self._rows = rows
        self._told: dict[str, str] = {}
        self._shown = time.monotonic()
        self._live = (
            Live(console=self.console, auto_refresh=False, redirect_stdout=False) if self.console.is_terminal else None
        )

    def __enter__(self) -> SweepTable:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.end()

    def settle(self, name: str, outcome: Outcome) -> None:
        """A run came to its end."""
        self._rows[name].look()
        self._rows[name].outcome = outcome

    def end(self) -> None:
        """Shows the whole table, for good."""
        table = self.table(whole=True)
        if self._live:
            self._live.update(table, refresh=True)
            self._live.stop()
        else:
            self.console.print(table)

    def update(self) -> None:
        """Looks at the runs that have no outcome yet, and shows them."""
        for row in self._rows.values():
            if row.outcome is None:
                row.look()
        if self._live:
            self._live.update(self.table(), refresh=True)
            return
        due = time.monotonic() - self._shown >= _PLAIN_INTERVAL
        self._shown = time.monotonic() if due else self._shown
        for name, row in self._rows.items():
            if self._told.get(name) != row.state or (due and row.state == "running"):
                self._told[name] = row.state
                cells = (cell.plain.replace("\n", ": ") for cell in row.cells())
                self.console.print("  ".join(filter(None, cells)), markup=False, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def table(self, *, whole: bool = False) -> Table:
        """All rows; on a terminal that is too low for them, unless `whole`, those first in which something happens."""
        rows = list(self._rows.values())
        if self._live and not whole and len(rows) > self.console.height - 6:
            rows.sort(key=lambda row: _ORDER[row.state])
        counts = Counter(row.state for row in rows)
        told = ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])
        table = Table(title=Text(told), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("run", overflow="fold", ratio=1)
        table.add_column("state", no_wrap=True)
        for name in ("steps", "return", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row.cells())
        return table
