"""Recorded episodes in memory, of small tasks with environments, for tests of what learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Composite

from worldloom_rl.data import Arrivals, Episodes
from worldloom_rl.envs import make_env
from worldloom_rl.specs.environment import specs_of

TASKS = ("Pendulum-v1", "MountainCarContinuous-v0")
TIME_LIMIT = 12


class InMemory(Episodes):
    """Rows [N] of one environment, as arrivals bring them."""

    def __init__(self, name: str, kept: TensorDict, observation_spec: Composite, action_spec: Composite) -> None:
        self.source, self.names = f"recorded {name}", (name,)
        self.observation_spec, self.action_spec = observation_spec, action_spec
        self._rows = kept
        firsts = kept["is_init"].squeeze(-1).nonzero().squeeze(-1)
        self.lengths = torch.diff(firsts, append=torch.tensor([len(kept)]))
        self.tasks = torch.zeros_like(self.lengths)

    def rows(self, index: Tensor) -> TensorDict:
        return self._rows[index]

    @property
    def bytes(self) -> int:
        return self._rows.bytes()

    def files(self) -> Sequence[Path]:
        return ()


def recorded(name: str, episodes: int = 6, seed: int = 0) -> InMemory:
    """Random play."""
    with torch.random.fork_rng():
        env = make_env(name, time_limit=TIME_LIMIT, seed=seed)
        played = env.rollout(episodes * TIME_LIMIT, break_when_any_done=False)
        env.close()
    observation_spec, action_spec = specs_of(env)
    kept = Arrivals(list(observation_spec))(played).rows.exclude("replay")
    return InMemory(name, kept, observation_spec, action_spec)


def write_episodes(folder: Path, count: int = 5, steps: int = 14, size: int = 16, scale: float = 1.0) -> Path:
    """Videos of a bright square that actions in [-scale, scale] move about."""
    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for number in range(count):
        place, frames = random.uniform(2, size - 4, 2), []
        actions = random.uniform(-scale, scale, (steps, 2)).astype(np.float32)
        for action in [np.zeros(2), *actions]:
            place = np.clip(place + action / scale, 0, size - 2)
            frame = np.zeros((size, size, 3), np.uint8)
            row, column = place.astype(int)
            frame[row : row + 2, column : column + 2] = 255
            frames.append(frame)
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["pixels"], file["actions"] = np.stack(frames), actions
    return folder


def write_vectors(file: Path, *, episodes: int, steps: int, width: int, reward: float) -> Path:
    """Vectors and actions of one number, with the same reward at every step."""
    random = np.random.default_rng(0)
    with h5py.File(file, "w") as content:
        for number in range(episodes):
            group = content.create_group(str(number))
            group["observation"] = random.normal(size=(steps + 1, width)).astype(np.float32)
            group["actions"] = random.uniform(-1, 1, (steps, 1)).astype(np.float32)
            group["rewards"] = np.full(steps, reward, np.float32)
    return file
