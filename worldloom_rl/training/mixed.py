"""Rows of two kinds in each batch: recorded ones, and what the run collects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase

from worldloom_rl.keys import STREAM
from worldloom_rl.training.profile import NoProfile
from worldloom_rl.training.recorded import Recorded, RecordedWithLatents
from worldloom_rl.training.recorded_windows import RecordedWindows
from worldloom_rl.training.source import ReplaySource, Saved, Source

_PLACES = ("replay", STREAM)  # where a row stands in a replay; no model reads them


class RecordedBesideCollected(RecordedWithLatents):
    """Recorded rows whose latents are kept beside collected rows."""

    folder = "recorded"


class Mixed(Source):
    """A share of each batch from recorded rows, which stand first in it, the rest from collected ones.

    Both hold the same keys and have windows of the same length.

    Args:
        share: of the recorded windows in a batch, so that at least one of either kind is in it.
        batch_size: windows of a batch in all.
    """

    collects = True

    def __init__(
        self, recorded: Recorded | RecordedWindows, collected: ReplaySource, *, share: float, batch_size: int
    ) -> None:
        count = round(share * batch_size)
        if not 1 <= count < batch_size:
            raise ValueError(
                f"A share of {share} of {batch_size} windows leaves no recorded or no collected one: mix at least one "
                "of either kind, or use one source alone."
            )
        if recorded.window != collected.replay.window:
            raise ValueError(
                f"Recorded windows have {recorded.window} rows, collected ones {collected.replay.window}; "
                "give both the same window."
            )
        self.recorded, self.collected, self.environment = recorded, collected, collected.environment
        self._recorded_windows, self._collected_windows = count, batch_size - count

    @property
    def episode_returns(self) -> Sequence[float]:  # type: ignore[override]
        return self.collected.episode_returns

    def collect(self) -> TensorDictBase:
        return self.collected.collect()

    def add(self, transitions: TensorDictBase) -> None:
        self.collected.add(transitions)

    def sample(self) -> TensorDictBase:
        recorded = self.recorded.sample(self._recorded_windows)
        collected = self.collected.replay.sample(self._collected_windows)
        if isinstance(self.recorded, RecordedWindows):
            recorded, collected = (part.exclude(*_PLACES) for part in (recorded, collected))
        names = [set(map(str, part.keys(True, True))) for part in (recorded, collected)]
        if names[0] != names[1]:
            raise KeyError(
                f"Recorded and collected rows differ in {sorted(names[0] ^ names[1])}: give both replays the same "
                "Arrivals' keys."
            )
        return torch.cat([recorded, collected])  # type: ignore[no-any-return]

    def write_back(self, rows: TensorDictBase) -> None:
        if len(rows) != self._recorded_windows + self._collected_windows:
            raise ValueError(
                f"The last batch had {self._recorded_windows + self._collected_windows} windows, but {len(rows)} are "
                "written back: whose rows they are is told by their place in the batch."
            )
        self.recorded.write_back(rows[: self._recorded_windows])
        self.collected.write_back(rows[self._recorded_windows :])

    def entries(self, *keys: NestedKey) -> TensorDict:
        parts = [self.recorded.entries(*keys), self.collected.entries(*keys)]
        return torch.cat(parts)  # type: ignore[no-any-return]

    @property
    def rows(self) -> int:
        return self.recorded.rows + self.collected.rows

    @property
    def bytes(self) -> float:
        return self.recorded.bytes + self.collected.bytes

    def save(self, directory: Path) -> Saved:
        recorded = self.recorded.save(directory)  # first: it draws nothing, and the generators are saved by the last
        return {**self.collected.save(directory), "recorded": recorded}

    def moved(self, directory: Path) -> None:
        self.recorded.moved(directory)
        self.collected.moved(directory)

    def load(self, directory: Path, saved: Saved, seed: int) -> str:
        self.recorded.load(directory, saved["recorded"], seed)
        return self.collected.load(directory, saved, seed)

    def close(self) -> None:
        try:
            self.collected.close()
        finally:
            self.recorded.close()

    def time_acting(self, profile: NoProfile) -> None:
        self.collected.time_acting(profile)

    def __str__(self) -> str:
        return f"{self.recorded} and {self.collected}"
