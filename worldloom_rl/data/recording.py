"""Recorded episodes as the transitions that a collector would have given, so that one replay and sampler serve all."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor
from torchrl.data import Composite

from worldloom_rl.data.arrivals import Arrivals
from worldloom_rl.data.replay import Replay
from worldloom_rl.keys import DONE, IS_INIT, REWARD, TERMINATED, TRUNCATED, as_tuple, previous_action_keys

_PART = 512  # most transitions that are read at once


class Excerpt(NamedTuple):
    """T transitions of one episode: T + 1 observations and what stands between them.

    Attributes:
        observation: [T + 1, …] by key.
        action: [T, …] by key, as an environment takes it.
        reward: [T], or None for recordings without rewards: they count as zeros.
        terminated: whether the last observation is a terminal state; truncated: whether a limit was reached there too.
    """

    observation: Mapping[NestedKey, Tensor]
    action: Mapping[NestedKey, Tensor]
    reward: Tensor | None = None
    terminated: bool = False
    truncated: bool = False


class Recording(ABC):
    """Episodes that somebody recorded. A subclass reads a format; the form is that of `make_env`'s environments.

    Attributes:
        source: what it was opened by, for people.
        observation_spec: un-batched, of what the rows hold.
        action_spec: un-batched Composite of the action keys.
        frames: observations of each episode, one more than it has transitions.
    """

    source: str
    observation_spec: Composite
    action_spec: Composite
    frames: Sequence[int]

    @abstractmethod
    def read(self, episode: int, start: int, stop: int) -> Excerpt:
        """Transitions `start` to `stop` (not included) of an episode, so observations start … stop.

        "terminated" and "truncated" count only where `stop` is the episode's end.
        """

    def transitions(self, episode: int) -> Iterator[TensorDict]:
        """The episode as a collector of one environment gives it: parts [1, T], the last one done.

        An episode that does not end in a terminal state is truncated.
        """
        steps = self.frames[episode] - 1
        for start in range(0, steps, _PART):
            stop = min(start + _PART, steps)
            excerpt = self.read(episode, start, stop)
            last = torch.zeros(stop - start, 1, dtype=torch.bool)
            last[-1] = stop == steps
            first = torch.zeros_like(last)
            first[0] = start == 0
            reward = torch.zeros(stop - start) if excerpt.reward is None else excerpt.reward
            part = TensorDict({IS_INIT: first, **excerpt.action}, batch_size=[stop - start])
            for key, value in excerpt.observation.items():
                part.set(key, value[:-1]).set(("next", *as_tuple(key)), value[1:])
            ended = last & excerpt.terminated
            flags = {DONE: last, TERMINATED: ended, TRUNCATED: last & (excerpt.truncated | ~ended)}
            for key, value in {REWARD: reward.reshape(-1, 1), **flags}.items():
                part["next", key] = value
            yield part.unsqueeze(0)


def fill(replay: Replay, arrivals: Arrivals, recording: Recording, episodes: Sequence[int]) -> str:
    """Writes these episodes to replay, one after the other in one stream; a digest of their lengths and actions.

    Raises ValueError if they do not all fit.
    """
    rows = sum(recording.frames[episode] for episode in episodes)
    if rows > replay.capacity:
        raise ValueError(
            f"{recording.source}: {rows} rows do not fit a replay of {replay.capacity}: allow more (capacity, "
            "replay_gb), or record fewer."
        )
    digest = hashlib.sha256()
    stored = previous_action_keys(arrivals.action_keys)
    for episode in episodes:
        digest.update(f"{recording.frames[episode]}".encode())
        for part in recording.transitions(episode):
            arrived = arrivals(part)
            for key in stored:
                digest.update(arrived.rows[key].contiguous().numpy().tobytes())
            replay.extend(arrived)
    return digest.hexdigest()
