"""A set of small integers that is drawn from uniformly."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class DenseSet:
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
