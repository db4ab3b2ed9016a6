"""What an actor does in its own process: the loop's own collector, whose batches it hands on as arrays."""

from __future__ import annotations

import dataclasses
import faulthandler
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.envs import EnvBase

from worldloom_rl.data import StreamLabel
from worldloom_rl.keys import STREAM, as_tuple
from worldloom_rl.training.options import ActorsRunConfig
from worldloom_rl.training.source import make_collector
from worldloom_rl.world_model import WorldModel

Arrays = Mapping[tuple[str, ...], np.ndarray]  # by key
Weights = Mapping[str, np.ndarray]  # by the names of a model's state dict


class Start(NamedTuple):
    """What an actor begins with.

    Attributes:
        seed: of its environments, its exploration and its draws.
        random_steps: agent steps of all its environments whose actions are drawn at random before the policy acts.
    """

    seed: int
    random_steps: int


@dataclass(frozen=True)
class Work:
    """What all actors of a run are told.

    Attributes:
        config: of the run.
        make_env: of a seed, the environments of one actor.
        model: whose policy acts, once it got its first weights.
        keys: entries of the transitions that are wanted.
        notes: the directory where an actor leaves the traceback of what ends its process.
    """

    config: ActorsRunConfig
    make_env: Callable[[int], EnvBase]
    model: WorldModel
    keys: Sequence[NestedKey]
    notes: str


class Actor:
    """A collector in environments of its own. Ray makes it in a process; its methods are called one after the other.

    Args:
        number: among the actors, which gives its streams their numbers.
    """

    def __init__(self, work: Work, number: int) -> None:
        self._work, self._number = work, number
        self._batches: Iterator[TensorDictBase] = iter(())
        with suppress(OSError):  # on another machine there may be no such directory
            faulthandler.enable(os.open(notes_of(work.notes, number), os.O_WRONLY | os.O_CREAT | os.O_APPEND))

    def begin(self) -> int:
        """The number of its process, which is up then."""
        return os.getpid()

    def play(self, weights: Weights | None, start: Start | None) -> Arrays:
        """Transitions [E, T], played with these weights, or with those before.

        Args:
            start: with the first call alone.
        """
        if weights is not None:
            # Copied: Ray lets nobody write to its memory.
            self._work.model.load_state_dict({name: torch.from_numpy(np.array(each)) for name, each in weights.items()})
        if start is not None:  # not in `__init__`, whose errors Ray tells as a death
            self._batches = self._collect(start)
        batch = next(self._batches).select(*self._work.keys)
        batch = batch.reshape(-1, batch.shape[-1])
        return {as_tuple(key): value.contiguous().numpy() for key, value in batch.items(True, True)}

    def _collect(self, start: Start) -> Iterator[TensorDictBase]:
        torch.set_num_threads(1)
        torch.manual_seed(start.seed)
        config = dataclasses.replace(self._work.config, device="cpu", cuda_graphs=False)
        env = self._work.make_env(start.seed)
        env = env.append_transform(StreamLabel(self._number * env.batch_size.numel()))
        policy = self._work.model.make_policy()
        return iter(
            make_collector(config, env, policy, init_random_frames=start.random_steps, steps=config.actor_steps)
        )


def notes_of(directory: str, number: int) -> str:
    """The file with what ended an actor's process."""
    return os.path.join(directory, f"{number}.txt")


def transitions_of(arrays: Arrays) -> TensorDict:
    """The transitions [E, T] that an actor handed on."""
    batch = TensorDict({}, arrays[STREAM].shape)
    for key, value in arrays.items():
        batch[key] = torch.from_numpy(np.array(value))
    return batch
