"""Where the rows of a run come from: a source collects them, keeps them, draws batches, and is saved with the run.

`Source` says what that is; `Collected` is the source of most runs: environments with the policy in them. Recorded
episodes, and both in one batch, stand in `recorded.py` and `mixed.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import EnvBase

from worldloom_rl import ranks
from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.torchrl_insides import sampling_state, set_sampling_state
from worldloom_rl.training.collection import load_collection, save_collection
from worldloom_rl.training.cuda_graphs import CapturedPolicy
from worldloom_rl.training.options import CapturedRunConfig, RunConfig
from worldloom_rl.training.profile import NoProfile
from worldloom_rl.training.replay import remove_scratch

Saved = dict[str, Any]  # a part of learning.pt: tensors, numbers, text, and lists and dictionaries of them
_REPLAY = "replay"  # in a checkpoint


class Source(ABC):
    """Rows to learn from. `str` of it says to people what is learned from.

    Attributes:
        collects: whether `collect` brings rows.
        environment: where they are collected; None where they are not.
        episode_returns: of the training episodes that ended, exploration included.
    """

    collects: bool
    environment: EnvBase | None = None
    episode_returns: Sequence[float] = ()

    @abstractmethod
    def collect(self) -> TensorDictBase | None:
        """The next transitions, mostly one agent step of every environment; None where all rows are there."""

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

    def measures(self, training_seconds: float) -> dict[str, float]:
        """What the live line and the logs show of how the rows come, by name."""
        return {}

    def news(self) -> Sequence[str]:
        """What a person should be told that happened since this was asked last."""
        return ()


class ReplaySource(Source):
    """A source whose rows are all kept in one replay."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay

    def sample(self, number: int | None = None) -> TensorDictBase:
        return self.replay.sample(number)  # type: ignore[no-any-return]

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


class Collected(ReplaySource):
    """Environments, the policy in them, and a replay of what they gave.

    Args:
        replay: empty.
        collector: brings one agent step of every environment at a time, without end.
        num_envs: how many that are.
        told: what is learned from, for people.
    """

    collects = True

    def __init__(
        self, replay: Replay, arrivals: Arrivals, collector: Collector, num_envs: int, told: str = "an environment"
    ) -> None:
        super().__init__(replay)
        self.arrivals = arrivals
        self.collector, self.environment = collector, collector.env
        self.running_returns = torch.zeros(num_envs)
        self.episode_returns: list[float] = []
        self._told = told
        self._batches: Iterator[TensorDictBase] = iter(collector)

    def collect(self) -> TensorDictBase:
        return next(self._batches)

    def add(self, transitions: TensorDictBase) -> None:
        self.replay.extend(self.arrivals(transitions))
        self.running_returns += transitions["next", "reward"].reshape(-1)
        done = transitions["next", "done"].reshape(-1)
        self.episode_returns += self.running_returns[done].tolist()
        self.running_returns[done] = 0.0

    def save(self, directory: Path) -> Saved:
        self.replay.save(directory / _REPLAY)
        save_collection(self.collector, self.arrivals, directory)
        return {
            "sampling": sampling_state(self.replay),
            "running_returns": self.running_returns,
            "episode_returns": self.episode_returns,
        }

    def moved(self, directory: Path) -> None:
        self.replay.moved(directory / _REPLAY)

    def load(self, directory: Path, saved: Saved, seed: int) -> str:
        self.running_returns = saved["running_returns"]
        self.episode_returns = saved["episode_returns"]
        self.replay.load(directory / _REPLAY)
        set_sampling_state(self.replay, saved["sampling"])
        reason = load_collection(self.collector, self.arrivals, directory, seed)
        return ", in the middle of its episodes." if reason is None else f", with new episodes, because {reason}"

    def close(self) -> None:
        try:
            self.collector.shutdown()
        finally:
            super().close()

    def time_acting(self, profile: NoProfile) -> None:
        if isinstance(self.collector.policy, nn.Module):
            profile.time_calls(self.collector.policy, "acting")

    def __str__(self) -> str:
        return self._told


@contextmanager
def closed_on_error(env: EnvBase) -> Iterator[EnvBase]:
    """The environment, closed if the block fails: what a run is made of is made in such a block."""
    try:
        yield env
    except BaseException:
        env.close()
        raise


def make_collector(
    config: RunConfig,
    env: EnvBase,
    policy: TensorDictSequential,
    *,
    init_random_frames: int | None = None,
    steps: int = 1,
) -> Collector:
    """So many agent steps in every environment a batch, without end, kept on the CPU.

    Args:
        init_random_frames: agent steps whose actions are drawn at random before the policy acts, in all processes
            together.
    """
    captured = isinstance(config, CapturedRunConfig) and config.cuda_graphs
    return Collector(
        env,
        CapturedPolicy(policy) if captured else policy,
        frames_per_batch=steps * env.batch_size.numel(),
        total_frames=-1,
        init_random_frames=init_random_frames and ranks.share(init_random_frames, "seed_steps"),
        auto_register_policy_transforms=True,
        policy_device=config.device,
        storing_device="cpu",
    )
