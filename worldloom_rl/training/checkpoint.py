"""Checkpoints of a run: whole directories that appear by renaming; the newest few are kept, and the best."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from worldloom_rl.atomic import new_directory

_PREFIX = "step_"
_SCORE_FILE = "score.json"


class Checkpoints:
    """The checkpoints under a directory, each named by its agent steps and its updates, never written twice.

    Args:
        directory: made when the first checkpoint is written.
        keep: how many of the newest stay, beside the one with the highest score.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory = directory
        self.keep = keep

    def all(self) -> list[Path]:
        """Finished checkpoints, the oldest first."""
        return sorted(self.directory.glob(f"{_PREFIX}*"))

    def latest(self) -> Path:
        """The newest checkpoint. Raises FileNotFoundError if there is none."""
        found = self.all()
        if not found:
            raise FileNotFoundError(f"{self.directory} holds no checkpoint; the run was stopped before its first one.")
        return found[-1]

    def best(self) -> Path:
        """The checkpoint with the highest score, of equal ones the newest. Raises FileNotFoundError if none has one."""
        scored = self._scored()
        if not scored:
            raise FileNotFoundError(f"{self.directory} holds no checkpoint that was evaluated.")
        return scored[-1]

    def save(self, agent_steps: int, updates: int, write: Callable[[Path], None], score: float | None = None) -> Path:
        """Let `write` fill a temporary directory, then name it, then drop what is too old.

        Args:
            score: of the last evaluation before it; None if there was none.
        """
        target = self.directory / f"{_PREFIX}{agent_steps:09d}_{updates:09d}"
        if not target.exists():
            with new_directory(target) as folder:
                write(folder)
                (folder / _SCORE_FILE).write_text(json.dumps({"score": score}))
        kept = {*self.all()[-self.keep :], *self._scored()[-1:]}
        for folder in set(self.all()).difference(kept):
            dropped = folder.with_name(f".{folder.name}-dropped")  # a half-removed one must not look like a whole one
            os.replace(folder, dropped)
            shutil.rmtree(dropped)
        return target

    def _scored(self) -> list[Path]:
        """The checkpoints that have a score, the best last, of equal ones the newest."""
        scored = [(score, folder) for folder in self.all() if (score := _score(folder)) is not None]
        return [folder for _, folder in sorted(scored)]

    def clean(self) -> None:
        """Remove what a killed run left half written or half removed. Not while a run is writing here."""
        for rest in self.directory.glob(f".{_PREFIX}*"):
            shutil.rmtree(rest)


def agent_steps_of(checkpoint: Path) -> int:
    """The agent steps that a checkpoint's name tells."""
    return int(checkpoint.name.removeprefix(_PREFIX).partition("_")[0])


def updates_of(checkpoint: Path) -> int:
    """The gradient updates that a checkpoint's name tells."""
    return int(checkpoint.name.rpartition("_")[2])


def _score(checkpoint: Path) -> float | None:
    score: float | None = json.loads((checkpoint / _SCORE_FILE).read_text())["score"]
    return score
