"""Rows that a policy collects in environments while the run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import EnvBase

from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.training.collection import load_collection, save_collection
from worldloom_rl.training.cuda_graphs import CapturedPolicy
from worldloom_rl.training.options import CapturedRunConfig, RunConfig
from worldloom_rl.training.profile import NoProfile
from worldloom_rl.training.source import ReplaySource, Saved

_REPLAY = "replay"  # in a checkpoint


@contextmanager
def closed_on_error(env: EnvBase) -> Iterator[EnvBase]:
    """The environment, closed if the block fails: what a run is made of is made in such a block."""
    try:
        yield env
    except BaseException:
        env.close()
        raise


def make_collector(
    config: RunConfig, env: EnvBase, policy: TensorDictSequential, *, init_random_frames: int | None = None
) -> Collector:
    """One agent step in every environment a batch, without end, kept on the CPU.

    Args:
        init_random_frames: agent steps whose actions are drawn at random before the policy acts.
    """
    captured = isinstance(config, CapturedRunConfig) and config.cuda_graphs
    return Collector(
        env,
        CapturedPolicy(policy) if captured else policy,
        frames_per_batch=config.num_envs,
        total_frames=-1,
        init_random_frames=init_random_frames,
        auto_register_policy_transforms=True,
        policy_device=config.device,
        storing_device="cpu",
    )


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
        self.collector = collector
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
            "sampling": self.replay._rng.get_state(),
            "running_returns": self.running_returns,
            "episode_returns": self.episode_returns,
        }

    def moved(self, directory: Path) -> None:
        self.replay.moved(directory / _REPLAY)

    def load(self, directory: Path, saved: Saved, seed: int) -> str:
        self.running_returns = saved["running_returns"]
        self.episode_returns = saved["episode_returns"]
        self.replay.load(directory / _REPLAY)
        self.replay._rng.set_state(saved["sampling"])
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
