"""What TorchRL has no public name for, and how it is reached: the one file to mend when a release moves it.

Tried with 0.14.1 and 0.15. Methods that subclasses override (`_step`, `_reset`, a writer's `_empty`) stand with the
subclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import ReplayBuffer
from torchrl.envs import EnvBase, GymWrapper, SerialEnv


def sampling_state(replay: ReplayBuffer) -> Tensor:
    """Where the generator stands that a replay buffer's samples are drawn from."""
    state: Tensor = replay._rng.get_state()
    return state


def set_sampling_state(replay: ReplayBuffer, state: Tensor) -> None:
    """Puts that generator back."""
    replay._rng.set_state(state)


def carried(collector: Collector) -> TensorDictBase:
    """The root of the collector's next step: observations, latents and counts in the middle of its episodes."""
    root: TensorDictBase = collector._carrier
    return root


def carry(collector: Collector, root: dict[str, Tensor]) -> None:
    """Has the collector go on from that root, as a dictionary; the environments must stand there too."""
    present = collector._carrier
    collector._carrier = TensorDict.from_dict(root, batch_size=present.batch_size, device=present.device)


def members(env: SerialEnv) -> Sequence[EnvBase]:
    """The environments that a SerialEnv steps one after the other."""
    environments: Sequence[EnvBase] = env._envs
    return environments


def wrapped(env: GymWrapper) -> Any:
    """The gymnasium environment that TorchRL's wrapper steps."""
    return env._env
