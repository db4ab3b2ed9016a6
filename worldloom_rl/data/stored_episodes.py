"""Episodes whose rows lie as tensors, in memory or in mapped files: rows are gathered from where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor
from torchrl.data import Categorical, Composite

from worldloom_rl.data.episodes import TASK, Episodes
from worldloom_rl.data.mapped_memory import MappedMemory
from worldloom_rl.keys import IS_INIT, REWARD, TERMINATED, TRUNCATED, previous_action_keys
from worldloom_rl.specs.observations import leaves_of

_READ_AT_ONCE = 2**30  # bytes of files that are looked through when they are opened; larger ones as rows are drawn
_PIECE = 2**16  # rows of them that are looked at together


@dataclass(frozen=True)
class Part:
    """Rows that lie together.

    Attributes:
        name: of the file, for people.
        leaves: [n, ...] of the observation, the previous actions, the reward and, if it is there, "terminated" and
            "truncated", by the key that a row has them under.
        file: where they lie; None for memory.
    """

    name: str
    leaves: Mapping[NestedKey, Tensor]
    file: Path | None = None

    def __len__(self) -> int:
        return len(next(iter(self.leaves.values())))


class StoredEpisodes(Episodes):
    """Episodes as ranges of the rows of all parts, which are counted through.

    Whatever the parts hold for the previous action and the reward of an episode's first row, it is not looked at.

    Args:
        starts: [E] where each episode's first row stands.
        order: [N] which row of the parts stands at each place, if not the one of that number.
        files: that rows in memory were read from.
    """

    def __init__(
        self,
        source: str,
        parts: Sequence[Part],
        *,
        starts: Tensor,
        lengths: Tensor,
        observation_spec: Composite,
        action_spec: Composite,
        tasks: Tensor | None = None,
        names: Sequence[str] = (),
        order: Tensor | None = None,
        files: Sequence[Path] = (),
        unit_actions: bool = False,
    ) -> None:
        self.source, self.parts = source, tuple(parts)
        self._files = [part.file for part in parts if part.file] or list(files)
        self.lengths, self._starts, self._order = lengths, starts, order
        self.tasks, self.names = torch.zeros_like(lengths) if tasks is None else tasks, tuple(names)
        self.observation_spec, self.action_spec = observation_spec, action_spec
        self.unit_actions = unit_actions
        if self.several:
            self.observation_spec = observation_spec.clone()
            self.observation_spec[TASK] = Categorical(len(self.names), shape=(), dtype=torch.int64)
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)
        actions = previous_action_keys(tuple(leaves_of(action_spec)))
        self._from_before = (*actions, REWARD)  # what led to a row, so that the first one has none
        self._mapped = MappedMemory([leaf for part in parts if part.file for leaf in part.leaves.values()])
        if parts[0].file and self.bytes <= _READ_AT_ONCE:
            for first in range(0, int(lengths.sum()), _PIECE):
                self.rows(torch.arange(first, min(first + _PIECE, int(lengths.sum()))))

    def rows(self, index: Tensor) -> TensorDict:
        flat = index.reshape(-1)
        episode, step = self.places(flat)
        place = self._starts[episode] + step
        if self._order is not None:
            place = self._order[place]
        first, last = step == 0, step == self.lengths[episode] - 1
        rows = TensorDict({}, batch_size=flat.shape)
        part_of = torch.searchsorted(self._ends, place, right=True)
        for key in self.parts[0].leaves:
            rows[key] = self._gather(key, part_of, place)
        self._mapped.release()
        self._finish(rows, first, last, episode, step)
        return rows.reshape(index.shape)

    def _gather(self, key: NestedKey, part_of: Tensor, place: Tensor) -> Tensor:
        """[N, ...] the leaf of the rows at these places."""
        if len(self.parts) == 1:
            return self.parts[0].leaves[key].index_select(0, place)
        like = self.parts[0].leaves[key]
        gathered = like.new_empty((len(place), *like.shape[1:]))
        for part in sorted(set(part_of.tolist())):
            chosen = (part_of == part).nonzero().squeeze(-1)
            start = self._ends[part] - len(self.parts[part])
            gathered[chosen] = self.parts[part].leaves[key].index_select(0, place[chosen] - start)
        return gathered

    def _finish(self, rows: TensorDict, first: Tensor, last: Tensor, episode: Tensor, step: Tensor) -> None:
        """Makes gathered values [N] the rows that `Episodes.rows` promises."""
        for key in (*self._from_before, TERMINATED):
            if key in rows.keys(include_nested=True):
                value = rows[key]
                rows[key] = value.masked_fill(first.reshape(-1, *[1] * (value.ndim - 1)), 0)
        for key, value in rows.items(True, True):
            if value.is_floating_point() and not bool(value.isfinite().all()):
                wrong = int((~value.isfinite().reshape(len(value), -1).all(-1)).nonzero()[0, 0])
                raise ValueError(f"{self._told(int(episode[wrong]), int(step[wrong]))}: {key!r} is not finite.")
        none = torch.zeros_like(first)
        ended = rows.get(TERMINATED, none).reshape(-1, 1) != 0
        cut = last.unsqueeze(-1) & ~ended
        rows[REWARD] = rows[REWARD].reshape(-1, 1)
        rows[TRUNCATED] = rows.get(TRUNCATED, none).reshape(-1, 1) | cut
        rows[TERMINATED], rows[IS_INIT] = ended, first.unsqueeze(-1)
        if self.several:
            rows[TASK] = self.tasks[episode]

    def _told(self, episode: int, step: int) -> str:
        """File, episode (as counted in it) and row, for people."""
        start = self._starts if self._order is None else self._order[self._starts]
        part_of = torch.searchsorted(self._ends, start, right=True)
        part = int(part_of[episode])
        number = int((part_of[:episode] == part).sum())
        return f"{self.parts[part].name}, episode {number}, row {step}"

    @property
    def bytes(self) -> int:
        return sum(leaf.nbytes for part in self.parts for leaf in part.leaves.values())

    def files(self) -> Sequence[Path]:
        return self._files
