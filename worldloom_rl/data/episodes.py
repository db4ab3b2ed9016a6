"""Recorded episodes of any origin, behind one door: how long they are, of which task, and their rows by number."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Composite

from worldloom_rl.config import Json

TASK = "task"  # int64 [], which task a row is of, where there are several
_END = 1024  # bytes of a file's beginning and end that its digest reads


class Episodes(ABC):
    """Episodes that somebody recorded: by us, by others, in files or in memory.

    A row is what `Arrivals` makes of a collector's transitions: an observation with the action and the reward that led
    to it. Rows are numbered through all episodes, one after the other. Opening reads tables, not rows.

    Attributes:
        source: what they were opened by, for people.
        observation_spec: un-batched, of the rows' observation; with "task" where there are several tasks.
        action_spec: un-batched Composite of the action keys; rows hold them under `keys.previous_action_keys`.
        lengths: [E] int64 rows of each episode, one more than it has transitions.
        tasks: [E] int64 each episode's place in `names`.
        names: of the tasks. One task that nobody named has none.
        seen_actions: lowest and highest [A], where the data does not say which bounds actions had.
        unit_actions: whether actions stand in [-1, 1] whatever the environment's bounds are.
    """

    source: str
    observation_spec: Composite
    action_spec: Composite
    lengths: Tensor
    tasks: Tensor
    names: tuple[str, ...] = ()
    seen_actions: tuple[Tensor, Tensor] | None = None
    unit_actions: bool = False

    @abstractmethod
    def rows(self, index: Tensor) -> TensorDict:
        """Rows [...] with these numbers [...]: observation, previous action, reward, ends, "is_init", and "task".

        The first row of an episode has zeros for its previous action and reward, and "is_init"; the last one is
        terminated or truncated. "task" is there where there are several.

        Raises IndexError for a number that no row has; ValueError, naming file, episode and row, for a value that is
        not finite.
        """

    @property
    @abstractmethod
    def bytes(self) -> int:
        """What the rows take: of files that are mapped, else in memory once they are read."""

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """What was read, in order; nothing for episodes that were never in files."""

    def kept(self) -> Episodes:
        """The same episodes where rows can be drawn at random: mapped ones as they are, others read into memory."""
        return self

    def name_all(self, name: str) -> None:
        """Makes all episodes ones of this task, whatever they were before."""
        if self.several:
            self.observation_spec = self.observation_spec.clone()
            del self.observation_spec[TASK]
            self.tasks = torch.zeros_like(self.tasks)
        self.names = (name,)

    @property
    def several(self) -> bool:
        """Whether rows say which task they are of."""
        return len(self.names) > 1

    @cached_property
    def ends(self) -> Tensor:
        """[E] the number after that of each episode's last row."""
        return self.lengths.cumsum(0)

    def places(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Episode and step [N] of the rows with these numbers [N]. Raises IndexError if there is no such row."""
        total = int(self.ends[-1]) if len(self.ends) else 0
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < total:
            raise IndexError(f"{self.source} has rows 0 … {total - 1}, asked for {int(index.min())} … {index.max()}.")
        episode = torch.searchsorted(self.ends, index, right=True)
        return episode, index - self.ends[episode] + self.lengths[episode]

    def digest(self) -> dict[str, Json]:
        """What tells these episodes from others, as JSON: counts, names of tasks, and the files by their ends."""
        return {
            "episodes": len(self.lengths),
            "rows": int(self.lengths.sum()),
            "names": list(self.names),
            "files": [_of_file(file) for file in self.files()],
        }

    def __str__(self) -> str:
        told = f"{len(self.lengths)} episodes with {int(self.lengths.sum())} rows of {self.source}"
        return f"{told}, {len(self.names)} tasks" if self.several else told


def _of_file(path: Path) -> dict[str, Json]:
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_END))
        file.seek(max(0, size - _END))
        digest.update(file.read(_END))
    return {"name": path.name, "size": size, "ends": digest.hexdigest()}
