"""The laws by which windows are drawn: each says which distribution it has and whose algorithm wants it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from worldloom_rl.data.dense_set import DenseSet


class Links(Protocol):
    """What a law asks the ring. A row's serial counts the rows ever written; its slot is serial % capacity."""

    capacity: int
    window: int

    def reaches_back(self, row: int) -> bool: ...

    def inside_episode(self, stream: int) -> bool: ...

    def starts(self, last: int) -> list[int]: ...


class Law(ABC):
    """By which law a window's first row is drawn. The writer tells it of windows, of ends and of lost rows.

    A replay makes its own with its capacity: one's own law is a subclass, given as `Replay(by=MyLaw)`.
    """

    name: ClassVar[str]  # in checkpoints, and `by` of `Replay`

    def __init__(self, capacity: int) -> None:
        self.members = DenseSet(capacity)  # what is drawn uniformly

    @property
    def nbytes(self) -> int:
        """Bytes of the tables, all told."""
        return self.members.nbytes

    def window(self, ring: Links, start: int, stream: int) -> None:  # noqa: B027
        """Row `start` (a serial) has become the first of a whole window of its stream."""

    def episode(self, ring: Links, last: int) -> None:  # noqa: B027
        """Row `last` (a serial) has closed its episode."""

    def state(self) -> dict[str, Tensor]:
        """What the rows don't tell: the order of draws."""
        return {"members": self.members.items.clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Puts a state back after all rows of a checkpoint were written anew."""
        self.members.reorder(state["members"])

    @abstractmethod
    def discard(self, slot: int) -> None:
        """The slot's row starts no window any more."""

    @abstractmethod
    def draw(self, number: int, generator: torch.Generator | None) -> Tensor:
        """[number] slots of first rows."""


class WindowLaw(Law):
    """Uniform over all whole windows, across episode ends, running episodes too.

    Reference: dreamerv3 embodied/core/selectors.py, Uniform.
    """

    name = "window"

    def window(self, ring: Links, start: int, stream: int) -> None:
        if ring.reaches_back(start):
            self.members.add(start % ring.capacity)

    def discard(self, slot: int) -> None:
        self.members.discard(slot)

    def draw(self, number: int, generator: torch.Generator | None) -> Tensor:
        return self.members.draw(number, generator)


class WithinLaw(WindowLaw):
    """Uniform over all whole windows inside an episode, running episodes too (JEPA)."""

    name = "within"

    def window(self, ring: Links, start: int, stream: int) -> None:
        if ring.inside_episode(stream):
            super().window(ring, start, stream)


class OnlineLaw(WindowLaw):
    """As `WindowLaw`, but first, once, every newly completed window that follows the last such one of its stream.

    So each row is learned from soon after it came (DreamerV3).
    Reference: dreamerv3 embodied/core/replay.py, the online queue.
    """

    name = "online"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._queue: deque[int] = deque()  # slots
        self._since: dict[int, int] = {}  # of stream: rows since the start that was queued last

    def window(self, ring: Links, start: int, stream: int) -> None:
        super().window(ring, start, stream)
        since = self._since.get(stream, ring.window)
        if since >= ring.window and ring.reaches_back(start):
            self._queue.append(start % ring.capacity)
            since = 0
        self._since[stream] = since + 1

    def discard(self, slot: int) -> None:
        super().discard(slot)
        if slot in self._queue:
            self._queue.remove(slot)

    def draw(self, number: int, generator: torch.Generator | None) -> Tensor:
        fresh = [self._queue.popleft() for _ in range(min(number, len(self._queue)))]
        return torch.cat([torch.tensor(fresh, dtype=torch.int64), super().draw(number - len(fresh), generator)])

    def state(self) -> dict[str, Tensor]:
        since = torch.tensor(sorted(self._since.items()), dtype=torch.int64).reshape(-1, 2)
        return {**super().state(), "queue": torch.tensor(list(self._queue), dtype=torch.int64), "since": since}

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self._queue = deque(state["queue"].tolist())
        self._since = dict(state["since"].tolist())


class EpisodeLaw(Law):
    """A complete episode uniformly, then a start uniformly among its windows whose rows are all there (TD-MPC2).

    An episode is named by the slot of its last row, which outlives its other rows. Its starts stand in order in an
    arena that goes round. While a row is live fewer than 2·capacity starts come after it: rows that were live when its
    episode closed, and rows written since; so an arena of that size never overwrites a live one.
    """

    name = "episode"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._first = torch.zeros(capacity, dtype=torch.int64)  # of episode: its first start, counted through the arena
        self._count = torch.zeros(capacity, dtype=torch.int64)  # of episode: how many there are
        self._arena = torch.zeros(2 * capacity, dtype=torch.int64)  # slots of starts
        self._used = 0  # starts that ever entered the arena
        self._episode_of = np.full(capacity, -1, dtype=np.int64)  # of start: its episode
        self._first_array, self._count_array = self._first.numpy(), self._count.numpy()

    @property
    def nbytes(self) -> int:
        tables = self._first.nbytes + self._count.nbytes + self._arena.nbytes + self._episode_of.nbytes
        return self.members.nbytes + tables

    def episode(self, ring: Links, last: int) -> None:
        starts = ring.starts(last)
        if not starts:
            return
        slots, episode = np.asarray(starts) % ring.capacity, last % ring.capacity
        self._arena.numpy()[np.arange(self._used, self._used + len(starts)) % len(self._arena)] = slots
        self._first_array[episode], self._count_array[episode] = self._used, len(starts)
        self._used += len(starts)
        self._episode_of[slots] = episode
        self.members.add(episode)

    def discard(self, slot: int) -> None:
        episode = self._episode_of[slot]
        if episode < 0:
            return
        self._episode_of[slot] = -1
        self._first_array[episode] += 1  # rows of a stream go in order
        self._count_array[episode] -= 1
        if self._count_array[episode] == 0:
            self.members.discard(int(episode))

    def draw(self, number: int, generator: torch.Generator | None) -> Tensor:
        episode = self.members.draw(number, generator)
        start = torch.randint(2**62, (number,), generator=generator) % self._count.index_select(0, episode)
        return self._arena.index_select(0, (self._first.index_select(0, episode) + start) % len(self._arena))


MakeLaw = Callable[[int], Law]  # of a capacity: a class of laws

LAWS: Mapping[str, type[Law]] = {law.name: law for law in (EpisodeLaw, OnlineLaw, WindowLaw, WithinLaw)}


def find_law(by: str | MakeLaw) -> MakeLaw:
    """The law itself, or the one of that name. Raises ValueError for a name that no law has."""
    if not isinstance(by, str):
        return by
    if by not in LAWS:
        raise ValueError(f"by={by!r} is no sampling law: choose one of {sorted(LAWS)}.")
    return LAWS[by]
