"""The ring: rows in slots, each linked to the next row of its stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import RoundRobinWriter

from worldloom_rl.data.laws import MakeLaw
from worldloom_rl.keys import INDEX, IS_INIT, STREAM, TERMINATED, TRUNCATED

# A row's serial counts the rows ever written; its slot is serial % capacity, and it is live from `oldest` on.
_UNKNOWN = -1  # as a previous row: the one before was recycled; as a next slot: none has come yet
_INIT = -2  # as a previous row: the episode starts here


@dataclass
class _Stream:
    """The last rows of a stream (serials, at most a window) and whether its episode is still open."""

    tail: deque[int]
    open: bool = False


class LinkedRingWriter(RoundRobinWriter):  # type: ignore[misc]  # torchrl is untyped
    """Round-robin writer that links every row to the next one of its stream.

    A live row's successors are always live. A stream idle for longer than the ring has lost its last row: serials are
    compared before linking.

    Args:
        capacity: slots of the storage.
        window: rows of a window.
        reach: how many rows of the same episode before its first row a window needs (frame stacks).
        law: is made with the capacity and told of windows, episodes and recycled rows.
    """

    def __init__(self, capacity: int, window: int, reach: int, law: MakeLaw) -> None:
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
        # As TorchRL's writer of tensordicts has it, whose own name for it an observation may have too.
        serials = torch.arange(self.serial, self.serial + len(data), device=self._storage.device)
        data.set(INDEX, serials % self.capacity)
        index: Tensor = super().extend(data)
        first, self.serial, self.oldest = self.serial, self.serial + len(data), oldest
        for serial, (stream, is_init, done) in enumerate(marks, first):
            self._link(serial, stream, is_init, done)
        return index

    def add(self, data: TensorDictBase) -> Tensor:
        return self.extend(data.unsqueeze(0))[0]

    def write_at(self, index: int | Tensor, data: TensorDictBase) -> Tensor:
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

    def live_generations(self, slots: Tensor) -> Tensor:
        """[...] generations of slots [...] that hold a row; `generations_of` takes others too, which costs more."""
        generation: Tensor = self._generation
        return generation.index_select(0, slots.reshape(-1)).view_as(slots)

    def _bump_generation(self, index: int | Tensor, data: TensorDictBase) -> None:
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
    needed = {key: data.get(key, default=None) for key in (STREAM, IS_INIT, TERMINATED, TRUNCATED)}
    if missing := [key for key, value in needed.items() if value is None]:
        raise KeyError(f"replay rows need {missing}; these have {sorted(map(str, data.keys()))}. Arrivals writes them.")
    stream, is_init, terminated, truncated = needed.values()
    columns: Iterable[Tensor] = (stream, is_init, terminated.bool() | truncated.bool())
    return list(zip(*(column.reshape(len(data), -1)[:, 0].tolist() for column in columns), strict=True))
