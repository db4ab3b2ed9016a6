"""The ring: rows in slots, each linked to the next row of its stream, and the laws by which windows are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import TensorDictRoundRobinWriter
from torchrl.data.replay_buffers.samplers import Sampler

from worldloom_rl.data.arrivals import STREAM
from worldloom_rl.keys import IS_INIT, TERMINATED, TRUNCATED

# A row's serial counts the rows ever written; its slot is serial % capacity, and it is live from `oldest` on.
_UNKNOWN = -1  # as a previous row: the one before was recycled; as a next slot: none has come yet
_INIT = -2  # as a previous row: the episode starts here


class _DenseSet:
    """Integers below `size`, with constant-time add, discard and uniform draw."""

    def __init__(self, size: int) -> None:
        self.members = torch.zeros(size, dtype=torch.int64)
        self._members = self.members.numpy()
        self._position = np.full(size, -1, dtype=np.int64)
        self.count = 0

    @property
    def items(self) -> Tensor:
        """[count] the members, in the order that a draw indexes."""
        return self.members[: self.count]

    @property
    def nbytes(self) -> int:
        return self._members.nbytes + self._position.nbytes

    def add(self, item: int) -> None:
        self._position[item] = self.count
        self._members[self.count] = item
        self.count += 1

    def discard(self, item: int) -> None:
        hole = self._position[item]
        if hole >= 0:
            self.count -= 1
            moved = self._members[self.count]
            self._members[hole], self._position[moved] = moved, hole
            self._position[item] = -1

    def draw(self, number: int, generator: torch.Generator | None) -> Tensor:
        return self.members.index_select(0, torch.randint(self.count, (number,), generator=generator))

    def reorder(self, members: Tensor) -> None:
        """Puts the same members in the order given: draws then repeat those of the set that had it."""
        if not torch.equal(members.sort().values, self.items.sort().values):
            raise ValueError(f"the order lists {len(members)} other members than the {self.count} of the rows.")
        self._members[: self.count] = members.numpy()
        self._position[members.numpy()] = np.arange(self.count)


class Law(ABC):
    """By which law a window's first row is drawn. The writer tells it of windows, of ends and of lost rows."""

    def __init__(self, capacity: int) -> None:
        self.members = _DenseSet(capacity)  # what is drawn uniformly

    @property
    def nbytes(self) -> int:
        """Bytes of the tables, all told."""
        return self.members.nbytes

    def window(self, ring: LinkedRingWriter, start: int, stream: int) -> None:  # noqa: B027
        """Row `start` (a serial) has become the first of a whole window of its stream."""

    def episode(self, ring: LinkedRingWriter, last: int) -> None:  # noqa: B027
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
    """Uniform over all whole windows, across episode ends (DreamerV3)."""

    def window(self, ring: LinkedRingWriter, start: int, stream: int) -> None:
        if ring.reaches_back(start):
            self.members.add(start % ring.capacity)

    def discard(self, slot: int) -> None:
        self.members.discard(slot)

    def draw(self, number: int, generator: torch.Generator | None) -> Tensor:
        return self.members.draw(number, generator)


class WithinLaw(WindowLaw):
    """Uniform over all whole windows inside an episode (JEPA)."""

    def window(self, ring: LinkedRingWriter, start: int, stream: int) -> None:
        if ring.inside_episode(stream):
            super().window(ring, start, stream)


class OnlineLaw(WindowLaw):
    """As `WindowLaw`, but first, once, every newly completed window that follows the last such one of its stream.

    So each row is learned from soon after it came.
    Reference: dreamerv3 embodied/core/replay.py, the online queue.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._queue: deque[int] = deque()  # slots
        self._since: dict[int, int] = {}  # of stream: rows since the start that was queued last

    def window(self, ring: LinkedRingWriter, start: int, stream: int) -> None:
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
    """A complete episode uniformly, then a start uniformly among its windows that are still there (TD-MPC2).

    An episode is named by the slot of its last row, which outlives its other rows. Its starts stand in order in an
    arena that goes round. While a row is live fewer than 2·capacity starts come after it: rows that were live when its
    episode closed, and rows written since; so an arena of that size never overwrites a live one.
    """

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

    def episode(self, ring: LinkedRingWriter, last: int) -> None:
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


@dataclass
class _Stream:
    """The last rows of a stream (serials, at most a window) and whether its episode is still open."""

    tail: deque[int]
    open: bool = False


class LinkedRingWriter(TensorDictRoundRobinWriter):  # type: ignore[misc]  # torchrl is untyped
    """Round-robin writer that links every row to the next one of its stream.

    A live row's successors are always live. A stream idle for longer than the ring has lost its last row: serials are
    compared before linking.

    Args:
        capacity: slots of the storage.
        window: rows of a window.
        reach: how many rows of the same episode before its first row a window needs (frame stacks).
        law: is made with the capacity and told of windows, episodes and recycled rows.
    """

    def __init__(self, capacity: int, window: int, reach: int, law: Callable[[int], Law]) -> None:
        super().__init__(track_generations=True)
        self.capacity, self.window, self.reach, self._make_law = capacity, window, reach, law
        self.resume(0)

    def resume(self, serial: int) -> None:
        """Empties the ring; the next row written gets this serial."""
        self.serial = self.oldest = serial
        self.law = self._make_law(self.capacity)
        self.episodes = 0  # complete ones of which a row is left
        self.cuts: list[int] = []  # slots of rows whose episode was cut short since the owner last looked
        self.next = torch.full((self.capacity,), _UNKNOWN)  # slot of the stream's next row
        self.previous = torch.full((self.capacity,), _UNKNOWN)  # serial of the episode's row before
        self._next, self._previous = self.next.numpy(), self.previous.numpy()
        self._closed = np.zeros(self.capacity, dtype=np.bool_)
        self._streams: dict[int, _Stream] = {}
        self._cursor = serial % self.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of links, generations and the law's tables."""
        generations = 8 * self.capacity  # int64, made with the first rows
        return generations + self.next.nbytes + self.previous.nbytes + self._closed.nbytes + self.law.nbytes

    def last_row(self, stream: int) -> int | None:
        """Serial of the stream's last row, None if it is unknown or recycled."""
        known = self._streams.get(stream)
        return known.tail[-1] if known and known.tail and known.tail[-1] >= self.oldest else None

    def follow(self, slot: Tensor) -> Tensor:
        """[B, window] slots of the windows that start at slots [B]."""
        hops = [slot]
        for _ in range(self.window - 1):
            hops.append(self.next.index_select(0, hops[-1]))
        return torch.stack(hops, -1)

    def stack_back(self, slot: Tensor, number: int) -> Tensor:
        """[..., number] slots of the rows leading up to slots [...], the episode's first row repeated."""
        hops = [slot]
        for _ in range(number - 1):
            before = self.previous[hops[-1]]
            hops.append(torch.where(before < 0, hops[-1], before % self.capacity))
        return torch.stack(hops[::-1], -1)

    def reaches_back(self, row: int) -> bool:
        """Whether `reach` rows before this one are live, or the episode starts among them."""
        for _ in range(self.reach):
            before = self._previous[row % self.capacity]
            if before < self.oldest:
                return bool(before == _INIT)
            row = before
        return True

    def inside_episode(self, stream: int) -> bool:
        """Whether no episode starts in the stream's last window, but for its first row."""
        rows = list(self._streams[stream].tail)
        return all(self._previous[row % self.capacity] != _INIT for row in rows[1:])

    def starts(self, last: int) -> list[int]:
        """Serials, in order, of the live rows that start a window inside the episode which row `last` ends."""
        rows = [last]
        while (before := self._previous[rows[-1] % self.capacity]) >= self.oldest:
            rows.append(int(before))
        skipped = 0 if before == _INIT else self.reach
        return rows[::-1][skipped : max(0, len(rows) - self.window + 1)]

    def extend(self, data: TensorDictBase) -> Tensor:
        """Writes rows [N]; returns their slots."""
        marks = _marks(data)
        self._check(marks)
        oldest = max(self.oldest, self.serial + len(data) - self.capacity)
        for serial in range(self.oldest, oldest):
            self._recycle(serial % self.capacity)
        index: Tensor = super().extend(data)
        first, self.serial, self.oldest = self.serial, self.serial + len(data), oldest
        for serial, (stream, is_init, done) in enumerate(marks, first):
            self._link(serial, stream, is_init, done)
        return index

    def add(self, data: TensorDictBase) -> Tensor:
        return self.extend(data.unsqueeze(0))[0]

    def write_at(self, index: int | Tensor, data: Any) -> Tensor:
        raise NotImplementedError("rows are linked in the order written: use extend, or update_if_present to patch.")

    def _check(self, marks: list[tuple[int, bool, bool]]) -> None:
        if len(marks) > self.capacity:
            raise ValueError(f"{len(marks)} rows do not fit a ring of {self.capacity}: extend in parts.")
        goes_on = {stream: state.open for stream, state in self._streams.items()}
        for row, (stream, is_init, done) in enumerate(marks):
            if not is_init and not goes_on.get(stream, True):
                raise ValueError(
                    f"row {row} continues an episode of stream {stream} that is over: after a row with terminated or "
                    "truncated the stream goes on with an is_init row (Arrivals writes one)."
                )
            goes_on[stream] = not done

    def _recycle(self, slot: int) -> None:
        self.episodes -= int(self._closed[slot])
        for _ in range(self.reach + 1):
            self.law.discard(slot)
            slot = int(self._next[slot])
            if slot == _UNKNOWN or self._previous[slot] == _INIT:
                return

    def _link(self, serial: int, stream: int, is_init: bool, done: bool) -> None:
        state = self._streams.setdefault(stream, _Stream(deque(maxlen=self.window)))
        tail, slot = state.tail, serial % self.capacity
        if tail and tail[-1] < self.oldest:
            tail.clear()
        if tail:
            self._next[tail[-1] % self.capacity] = slot
            if is_init and state.open:
                self.cuts.append(tail[-1] % self.capacity)
                self._close(tail[-1])
        self._next[slot], self._closed[slot] = _UNKNOWN, False
        self._previous[slot] = _INIT if is_init else tail[-1] if tail else _UNKNOWN
        tail.append(serial)
        if len(tail) == self.window and tail[0] >= self.oldest:
            self.law.window(self, tail[0], stream)
        state.open = not done
        if done:
            self._close(serial)

    def _close(self, last: int) -> None:
        self.episodes += 1
        self._closed[last % self.capacity] = True
        self.law.episode(self, last)

    def _bump_generation(self, index: int | Tensor, data: Any) -> None:
        # A slot's generation is how often the ring went round, so that a restored ring hands out the same ones.
        super()._bump_generation(index, data)
        slots = torch.as_tensor(index).reshape(-1).to(self._generation.device)
        serials = torch.arange(self.serial, self.serial + len(slots), device=slots.device)
        self._generation[slots] = serials // self.capacity

    def _empty(self, empty_write_count: bool = True) -> None:
        super()._empty(empty_write_count)
        self.resume(-(-self.serial // self.capacity) * self.capacity)


def _marks(data: TensorDictBase) -> list[tuple[int, bool, bool]]:
    """(stream, is_init, done) of rows [N]."""
    missing = [key for key in (STREAM, IS_INIT, TERMINATED, TRUNCATED) if data.get(key, default=None) is None]
    if missing:
        raise KeyError(f"replay rows need {missing}; these have {sorted(map(str, data.keys()))}. Arrivals writes them.")
    done = data[TERMINATED].bool() | data[TRUNCATED].bool()
    columns: Iterable[Tensor] = (data[STREAM], data[IS_INIT], done)
    return list(zip(*(column.reshape(len(data), -1)[:, 0].tolist() for column in columns), strict=True))


class WindowSampler(Sampler):  # type: ignore[misc]  # torchrl is untyped
    """Windows [B, window] of slots: first rows by the law, then links. Draws from the buffer's generator only."""

    def __init__(self, ring: LinkedRingWriter) -> None:
        self._ring = ring

    def sample(self, storage: Any, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
        ring = self._ring
        if ring.law.members.count == 0:
            raise RuntimeError(
                f"no window of {ring.window} rows to sample by {type(ring.law).__name__}: replay holds {len(storage)} "
                f"rows and {ring.episodes} complete episodes. Collect more, or shorten the window."
            )
        return ring.follow(ring.law.draw(batch_size, self._rng)), {}

    def _sampleable_count(self, storage: Any, batch_size: int) -> int:
        return self._ring.law.members.count

    def _empty(self) -> None:
        return

    def dumps(self, path: Any) -> None:
        return

    def loads(self, path: Any) -> None:
        return

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        return
