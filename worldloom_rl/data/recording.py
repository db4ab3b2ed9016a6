"""Episodes that are read by excerpts: files in which single rows cannot be had at no cost."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite

from worldloom_rl.data.episodes import TASK, Episodes
from worldloom_rl.data.stored_episodes import Part, StoredEpisodes
from worldloom_rl.keys import IS_INIT, REWARD, TERMINATED, TRUNCATED, previous_action_keys
from worldloom_rl.specs.observations import leaves_of

_TOGETHER = 512  # rows that are read at once when all are read
_MEMORY = Path("/proc/meminfo")
_BESIDE = 4 + 3  # bytes of a row's reward and flags


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


class Recording(Episodes):
    """Episodes in a format that a subclass reads; the form of their rows is that of `make_env`'s environments.

    Args:
        source: what it was opened by, for people.
        observation_spec: un-batched; "task" is added where there are several tasks.
        action_spec: un-batched Composite of the action keys.
        lengths: observations of each episode, at least two.
        tasks: each episode's place in `names`; zeros by default.
    """

    def __init__(
        self,
        source: str,
        observation_spec: Composite,
        action_spec: Composite,
        lengths: Sequence[int],
        tasks: Sequence[int] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self.source, self.action_spec = source, action_spec
        self.lengths = torch.tensor(lengths, dtype=torch.int64)
        self.tasks = torch.zeros_like(self.lengths) if tasks is None else torch.tensor(tasks, dtype=torch.int64)
        self.names = tuple(names)
        self.observation_spec = observation_spec.clone()
        if self.several:
            self.observation_spec[TASK] = Categorical(len(self.names), shape=(), dtype=torch.int64)

    @abstractmethod
    def read(self, episode: int, start: int, stop: int) -> Excerpt:
        """Transitions `start` to `stop` (not included, at least one) of an episode, so observations start … stop.

        "terminated" and "truncated" count only where `stop` is the episode's end.
        """

    def told(self, episode: int) -> str:
        """An episode's place, for people."""
        return f"{self.source}, episode {episode}"

    def rows(self, index: Tensor) -> TensorDict:
        flat = index.reshape(-1)
        episode, step = self.places(flat)
        breaks = ((episode[1:] != episode[:-1]) | (step[1:] != step[:-1] + 1)).nonzero().squeeze(-1) + 1
        bounds = pairwise([0, *breaks.tolist(), len(flat)])
        rows = torch.cat([self._stretch(int(episode[a]), int(step[a]), int(step[b - 1]) + 1) for a, b in bounds])
        return rows.reshape(index.shape)

    def _stretch(self, episode: int, start: int, stop: int) -> TensorDict:
        """Rows `start` to `stop` (not included) of an episode."""
        first = max(0, start - 1)
        excerpt = self.read(episode, first, max(stop - 1, first + 1))
        observed = slice(start - first, stop - first)
        count = stop - start
        rows = TensorDict({}, batch_size=[count])
        for key, value in excerpt.observation.items():
            rows[key] = _plain(value)[observed]
        keys = tuple(excerpt.action)
        for key, stored in zip(keys, previous_action_keys(keys), strict=True):
            rows[stored] = _arrived(_plain(excerpt.action[key]), start, count)
        reward = torch.zeros(count) if excerpt.reward is None else _arrived(_plain(excerpt.reward), start, count)
        rows[REWARD] = reward.reshape(-1, 1)
        self._check(rows, episode, start)
        step = torch.arange(start, stop).unsqueeze(-1)
        last = step == self.lengths[episode] - 1
        rows[TERMINATED] = last & excerpt.terminated
        rows[TRUNCATED] = last & (excerpt.truncated or not excerpt.terminated)
        rows[IS_INIT] = step == 0
        if self.several:
            rows[TASK] = self.tasks[episode].expand(count)
        return rows

    def _check(self, rows: TensorDict, episode: int, start: int) -> None:
        for key, leaf in leaves_of(self.observation_spec).items():
            if key == TASK:
                continue
            value = rows[key]
            if value.shape[1:] != leaf.shape or value.dtype != leaf.dtype:
                raise ValueError(
                    f"{self.told(episode)}: {key!r} is {value.dtype} {list(value.shape[1:])}, but {leaf.dtype} "
                    f"{list(leaf.shape)} is what the recording promises."
                )
        for key, value in rows.items(True, True):
            if value.is_floating_point() and not bool(value.isfinite().all()):
                wrong = int((~value.isfinite().reshape(len(value), -1).all(-1)).nonzero()[0, 0])
                raise ValueError(f"{self.told(episode)}, row {start + wrong}: {key!r} is not finite.")

    @property
    def bytes(self) -> int:
        leaves = [*leaves_of(self.observation_spec).values(), *leaves_of(self.action_spec).values()]
        row: int = sum(leaf.shape.numel() * leaf.dtype.itemsize for leaf in leaves) + _BESIDE
        return int(self.lengths.sum()) * row

    def kept(self) -> StoredEpisodes:
        """See `Episodes`. Raises ValueError if there is less memory than they take."""
        total, available = int(self.lengths.sum()), _available_memory()
        if available is not None and self.bytes > available:
            needed, free = self.bytes / 1e9, available / 1e9
            raise ValueError(
                f"{self.source} takes {needed:.1f} GB in memory, and {free:.1f} GB are free: learn from fewer "
                "episodes, or from smaller images (image_size)."
            )
        block: dict[NestedKey, Tensor] = {}
        for first in range(0, total, _TOGETHER):
            stop = min(first + _TOGETHER, total)
            part = self.rows(torch.arange(first, stop))
            for key, value in part.items(True, True):
                if key not in (IS_INIT, TASK):
                    block.setdefault(key, value.new_empty((total, *value.shape[1:])))[first:stop] = value
        return StoredEpisodes(
            self.source,
            [Part(self.source, block)],
            starts=self.ends - self.lengths,
            lengths=self.lengths,
            tasks=self.tasks,
            names=self.names,
            observation_spec=self.observation_spec,
            action_spec=self.action_spec,
            files=self.files(),
        )


def _available_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not tell."""
    if not _MEMORY.exists():
        return None
    told = dict(line.split(":") for line in _MEMORY.read_text().splitlines())
    return int(told["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in told else None


def _plain(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.float64 else value


def _arrived(value: Tensor, start: int, count: int) -> Tensor:
    """[count, …] what led to each row, from what stands between rows; nothing led to an episode's first one."""
    if start == 0:
        value = torch.cat([torch.zeros_like(value[:1]), value])
    return value[:count]


def seen_bounds(actions: np.ndarray) -> Bounded:
    """The lowest and the highest value of each column of actions [N, A]; one less and one more where one never changes.

    For data that does not say which bounds its environment had.
    """
    low, high = actions.min(0), actions.max(0)
    still = low == high
    bounds = (torch.from_numpy(np.where(still, bound + step, bound)) for bound, step in ((low, -1), (high, 1)))
    return Bounded(*bounds, shape=low.shape, dtype=torch.float32)
