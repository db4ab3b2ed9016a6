"""Recorded episodes of one task in the form of an agent that knew wider ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tensordict import NestedKey, TensorDict
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded

from worldloom_rl.config import Json
from worldloom_rl.data.episodes import TASK, Episodes
from worldloom_rl.keys import ACTION, PREVIOUS_ACTION, previous_action_keys
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.specs.observations import is_real_vector, leaves_of


class PaddedEpisodes(Episodes):
    """The episodes as `envs.tasks.make_padded_env` gives them: zeros behind observation and action, which is in [-1,
    1], and task 0.

    Args:
        observation_width, action_width: that the agent observes and takes.
    Raises ValueError for other observations than one vector, discrete actions, and what is wider.
    """

    def __init__(self, episodes: Episodes, observation_width: int, action_width: int) -> None:
        self._episodes, self.source, self.names = episodes, episodes.source, episodes.names
        self.lengths, self.tasks = episodes.lengths, torch.zeros_like(episodes.tasks)
        leaves = {key: leaf for key, leaf in leaves_of(episodes.observation_spec).items() if key != TASK}
        self._actions = ActionSpace(episodes.action_spec)
        if len(leaves) != 1 or not all(map(is_real_vector, leaves.values())) or not self._actions.is_continuous:
            raise ValueError(
                f"{self.source} has the observations {sorted(map(str, leaves))}; an agent of several tasks learns from "
                "one vector and continuous actions."
            )
        ((key, leaf),) = leaves.items()
        self._key: NestedKey = key
        own = (leaf.shape[0], self._actions.width)
        if own[0] > observation_width or own[1] > action_width:
            raise ValueError(
                f"{self.source} has {own[0]} numbers observed and {own[1]} of actions, but the model "
                f"{observation_width} and {action_width} at most."
            )
        self._behind = (observation_width - own[0], action_width - own[1])
        self.observation_spec = Composite(
            {key: Unbounded((observation_width,)), TASK: Categorical(1, shape=(), dtype=torch.int64)}
        )
        self.action_spec = Composite({ACTION: Bounded(-1.0, 1.0, shape=(action_width,), dtype=torch.float32)})

    def rows(self, index: Tensor) -> TensorDict:
        rows = self._episodes.rows(index)
        space = self._actions
        stored = previous_action_keys(space.keys)
        flat = space.flatten({key: rows[name] for key, name in zip(space.keys, stored, strict=True)})
        flat = flat.masked_fill(rows["is_init"], 0.0)  # no action led there, whatever the bounds' centre is
        rows = rows.exclude(*stored, TASK)
        rows[PREVIOUS_ACTION] = F.pad(flat, (0, self._behind[1]))
        rows[self._key] = F.pad(rows[self._key], (0, self._behind[0]))
        rows[TASK] = torch.zeros(index.shape, dtype=torch.int64)
        return rows

    @property
    def bytes(self) -> int:
        return self._episodes.bytes

    def files(self) -> Sequence[Path]:
        return self._episodes.files()

    def kept(self) -> Episodes:
        kept = self._episodes.kept()
        widths = self.observation_spec[self._key].shape[0], self.action_spec[ACTION].shape[0]
        return self if kept is self._episodes else PaddedEpisodes(kept, *widths)

    def digest(self) -> dict[str, Json]:
        return self._episodes.digest()
