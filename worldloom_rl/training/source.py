"""Where the rows of a run come from: a source collects them, keeps them, draws batches, and is saved with the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensordict import NestedKey, TensorDict, TensorDictBase

from worldloom_rl.data import Replay
from worldloom_rl.training.profile import NoProfile
from worldloom_rl.training.replay import remove_scratch

Saved = dict[str, Any]  # a part of learning.pt: tensors, numbers, text, and lists and dictionaries of them


class Source(ABC):
    """Rows to learn from. `str` of it says to people what is learned from.

    Attributes:
        collects: whether `collect` brings rows.
        episode_returns: of the training episodes that ended, exploration included.
    """

    collects: bool
    episode_returns: Sequence[float] = ()

    @abstractmethod
    def collect(self) -> TensorDictBase | None:
        """The next transitions, one agent step of every environment; None where all rows are there."""

    @abstractmethod
    def add(self, transitions: TensorDictBase) -> None:
        """Keeps what `collect` brought as rows."""

    @abstractmethod
    def sample(self) -> TensorDictBase:
        """Windows [B, L] of rows, and ("replay", …), which says where they stand; see `Replay.sample`."""

    @abstractmethod
    def write_back(self, rows: TensorDictBase) -> None:
        """Replaces entries of rows [B, ...] of the last sample, in its order; see `Replay.write_back`."""

    @abstractmethod
    def entries(self, *keys: NestedKey) -> TensorDict:
        """[N] these entries of all rows that are there."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many are kept."""

    @property
    @abstractmethod
    def bytes(self) -> float:
        """What these take."""

    @abstractmethod
    def save(self, directory: Path) -> Saved:
        """Writes to a checkpoint what does not come from elsewhere again, and returns the small rest, for learning.pt.

        The global random generators are saved here too, after all else that may draw.
        """

    def moved(self, directory: Path) -> None:  # noqa: B027  # not every source builds on its last save
        """Tells that the directory of the last `save` has this name now."""

    @abstractmethod
    def load(self, directory: Path, saved: Saved, seed: int) -> str:
        """Puts back what `save` wrote and returned, into a fresh source; says how it goes on, to end a sentence.

        Args:
            seed: of environments whose state could not be kept; they begin new episodes.
        Raises ValueError if the rows are not those that were there.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes what is open and removes scratch files."""

    def time_acting(self, profile: NoProfile) -> None:  # noqa: B027  # not every source acts
        """Lets the profile count the policy's time."""


class ReplaySource(Source):
    """A source whose rows are all kept in one replay."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay

    def sample(self) -> TensorDictBase:
        return self.replay.sample()  # type: ignore[no-any-return]

    def write_back(self, rows: TensorDictBase) -> None:
        self.replay.write_back(rows)

    def entries(self, *keys: NestedKey) -> TensorDict:
        return self.replay.entries(*keys)

    @property
    def rows(self) -> int:
        return len(self.replay)

    @property
    def bytes(self) -> float:
        return len(self.replay) * self.replay.bytes_per_row

    def close(self) -> None:
        remove_scratch(self.replay)
