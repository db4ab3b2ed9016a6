"""How far runs are, read from their directories by whoever shares the disk: no process has to be asked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worldloom_rl.config import Json
from worldloom_rl.training.owner import OWNER_FILE

_SCALARS = Path("logs", "csv", "scalars")
_TAIL = 4096  # bytes of a log that hold its last line


@dataclass(frozen=True)
class RunProgress:
    """What the files of a run tell now.

    Attributes:
        steps: done, as the recipe counts them.
        total: to be done.
        mean_return: of the last evaluation, else of the last episodes collected; None before one ended.
        finished: whether the result of all steps is there.
        owner: who works on the run, as its process says; empty if nobody does.
    """

    steps: int = 0
    total: int = 0
    mean_return: float | None = None
    finished: bool = False
    owner: str = ""


def read_progress(run: Path) -> RunProgress:
    """The progress of a run directory; that of nothing where there is none yet, or where a file is half written."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        config = _json(run / "config.json")["config"]
        total = int(config["steps"])
        result = _json(run / "result.json") if (run / "result.json").exists() else {}
        if result and result["config"]["steps"] == total:
            steps = int(result[result.get("clock", "agent_steps")])
            return RunProgress(steps, total, result["final_mean_return"], True, _owner(run))
        last = dict(_last_lines(run / _SCALARS))
        told = last.get("evaluation/return") or last.get("collection/return")
        steps = max((step for step, _ in last.values()), default=0)
        return RunProgress(steps, total, told[1] if told else None, False, _owner(run))
    return RunProgress(owner=_owner(run))


def _json(file: Path) -> dict[str, Json]:
    data: dict[str, Json] = json.loads(file.read_text("utf-8"))
    return data


def _owner(run: Path) -> str:
    try:
        return (run / OWNER_FILE).read_text("utf-8")
    except (OSError, ValueError):
        return ""


def _last_lines(scalars: Path) -> Iterator[tuple[str, tuple[int, float]]]:
    """Name, step and value of the last whole line of each log."""
    for file in scalars.rglob("*.csv"):
        with file.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
            lines = stream.read().splitlines(keepends=True)
        for line in reversed(lines):
            if line.endswith(b"\n"):
                step, _, value = line.decode().partition(",")
                yield file.relative_to(scalars).with_suffix("").as_posix(), (int(step), float(value))
                break
