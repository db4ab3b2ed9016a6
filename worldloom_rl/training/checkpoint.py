"""Checkpoints of a run: whole directories that appear by renaming, the newest few kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from worldloom_rl.pretrained import new_directory

_PREFIX = "step_"


class Checkpoints:
    """The checkpoints under a directory, each named by its agent steps.

    Args:
        directory: made when the first checkpoint is written.
        keep: how many of the newest stay.
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

    def save(self, agent_steps: int, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a temporary directory, then name it after the agent steps, then drop what is too old."""
        target = self.directory / f"{_PREFIX}{agent_steps:09d}"
        with new_directory(target) as folder:
            write(folder)
        for old in self.all()[: -self.keep]:
            shutil.rmtree(old)
        return target
