"""Windows drawn straight from recorded episodes, however many there are: nothing of them is copied."""

from __future__ import annotations

from pathlib import Path

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.data import Composite

from worldloom_rl.data.episodes import Episodes
from worldloom_rl.data.opening import check_actions
from worldloom_rl.data.windows import Windows
from worldloom_rl.keys import previous_action_keys
from worldloom_rl.specs.observations import is_real_vector, leaves_of
from worldloom_rl.training.collection import load_generators, save_generators
from worldloom_rl.training.source import Saved, Source

_LOOKED_AT = 1000  # rows whose padding is looked at before it is left out


class RecordedWindows(Source):
    """Windows of recorded episodes for a model that reads no latents of theirs.

    A checkpoint keeps what tells the episodes from others, and where the draws stand; the episodes stay where they are.
    Vectors that are padded to a wider task than the model knows lose the padding.

    Args:
        observation_spec, action_spec: of the model.
    Raises ValueError if the rows are not what the model reads.
    """

    collects = False

    def __init__(self, windows: Windows, observation_spec: Composite, action_spec: Composite) -> None:
        self.windows, self.episodes = windows, windows.episodes
        self._told, self._digest = str(self.episodes), self.episodes.digest()
        self._cut = wider_than_read(self.episodes, observation_spec, action_spec)
        observed = leaves_of(observation_spec)  # what was given behind a task's own actions went nowhere
        _check_padding(self.episodes, {key: width for key, width in self._cut.items() if key in observed})

    def collect(self) -> None:
        return None

    def add(self, transitions: TensorDictBase) -> None:
        raise RuntimeError(f"{self.episodes.source} is recorded: nothing is added to it.")

    @property
    def window(self) -> int:
        """Rows of a window."""
        return self.windows.window

    def sample(self, number: int | None = None) -> TensorDict:
        batch = self.windows.sample(number)
        for key, width in self._cut.items():
            batch[key] = batch[key][..., :width]
        return batch

    def write_back(self, rows: TensorDictBase) -> None:
        raise RuntimeError(f"{self.episodes.source} is recorded, and read where it lies: nothing is written to it.")

    def entries(self, *keys: NestedKey) -> TensorDict:
        return self.episodes.rows(torch.arange(self.rows)).select(*keys)

    @property
    def rows(self) -> int:
        return int(self.episodes.lengths.sum())

    @property
    def bytes(self) -> float:
        return float(self.episodes.bytes)

    def save(self, directory: Path) -> Saved:
        save_generators(directory)
        assert self.windows.generator is not None
        sampling = self.windows.generator.get_state()
        return {"digest": self._digest, "sampling": sampling, "running_returns": torch.zeros(1), "episode_returns": []}

    def load(self, directory: Path, saved: Saved, seed: int) -> str:
        if saved["digest"] != self._digest:
            raise ValueError(
                f"{self.episodes.source} holds other episodes than when the run began; put those back, or start a new "
                "run."
            )
        assert self.windows.generator is not None
        self.windows.generator.set_state(saved["sampling"])
        load_generators(directory)
        return "."

    def close(self) -> None:
        return None

    def __str__(self) -> str:
        return self._told


def wider_than_read(episodes: Episodes, observation_spec: Composite, action_spec: Composite) -> dict[NestedKey, int]:
    """What a model reads of vectors that are recorded wider, by the rows' keys.

    Raises ValueError for all else in which rows are not what it reads: missing leaves, other shapes, types or bounds.
    """
    cuts: dict[NestedKey, int] = {}
    pairs = [("observes", episodes.observation_spec, observation_spec), ("takes", episodes.action_spec, action_spec)]
    for role, recorded_spec, expected_spec in pairs:
        recorded, expected = leaves_of(recorded_spec), leaves_of(expected_spec)
        if missing := sorted(str(key) for key in expected if key not in recorded):
            raise ValueError(
                f"{episodes.source} has no {missing}, which the environment {role}; it has "
                f"{sorted(map(str, recorded))}."
            )
        stored = dict(zip(expected, previous_action_keys(list(expected)), strict=True)) if role == "takes" else {}
        for key, leaf in expected.items():
            theirs = recorded[key]
            if theirs.shape == leaf.shape and theirs.dtype == leaf.dtype:
                continue
            vectors = theirs.dtype == leaf.dtype and is_real_vector(theirs) and is_real_vector(leaf)
            if not vectors or theirs.shape[0] < leaf.shape[0]:
                raise ValueError(
                    f"{episodes.source} has {tuple(theirs.shape)} of {theirs.dtype} under {key!r}, but the environment "
                    f"{role} {tuple(leaf.shape)} of {leaf.dtype}: is it the one that was recorded?"
                )
            cuts[stored.get(key, key)] = leaf.shape[0]
    check_actions(episodes, action_spec)
    return cuts


def _check_padding(episodes: Episodes, cuts: dict[NestedKey, int]) -> None:
    """Raises ValueError if what is to be left out is anything but zeros, in rows all over the episodes."""
    total = int(episodes.lengths.sum())
    looked_at = torch.linspace(0, total - 1, min(total, _LOOKED_AT), dtype=torch.float64).long()
    rows = episodes.rows(looked_at) if cuts else TensorDict()
    for key, width in cuts.items():
        if bool((rows[key][..., width:] != 0).any()):
            raise ValueError(
                f"{episodes.source} has {rows[key].shape[-1]} numbers under {key!r}, and those behind the {width} of "
                "the environment are not all zero: is it the one that was recorded?"
            )
