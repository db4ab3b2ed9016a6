"""TorchRL's sampler of a ring of linked rows: whole windows, by the ring's law."""

from __future__ import annotations

import os

from tensordict import NestedKey
from torch import Tensor
from torchrl.data import Storage
from torchrl.data.replay_buffers.samplers import Sampler

from worldloom_rl.data.ring import LinkedRingWriter


class NoWindow(RuntimeError):
    """There is no whole window of rows to draw."""


class WindowSampler(Sampler):  # type: ignore[misc]  # torchrl is untyped
    """Windows [B, window] of slots: first rows by the law, then links. Draws from the buffer's generator only."""

    def __init__(self, ring: LinkedRingWriter) -> None:
        self._ring = ring

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[NestedKey, Tensor]]:
        ring = self._ring
        if ring.law.members.count == 0:
            raise NoWindow(
                f"no window of {ring.window} rows to sample by {type(ring.law).__name__}: replay holds {len(storage)} "
                f"rows and {ring.episodes} complete episodes. Collect more, or shorten the window."
            )
        return ring.follow(ring.law.draw(batch_size, self._rng)), {}

    def _sampleable_count(self, storage: Storage, batch_size: int) -> int:
        return self._ring.law.members.count

    def _empty(self) -> None:
        return

    def dumps(self, path: str | os.PathLike[str]) -> None:
        return

    def loads(self, path: str | os.PathLike[str]) -> None:
        return

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        return
