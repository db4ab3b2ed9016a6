"""Which environment a transition comes from, told by the environment itself."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs.transforms import Transform

from worldloom_rl.keys import STREAM


class StreamLabel(Transform):  # type: ignore[misc]  # torchrl is untyped
    """An environment's transform that numbers its streams, so that `Arrivals` links batches that come in any order.

    Each worker of a collector numbers its own: `StreamLabel(first=worker * num_envs)`.

    Args:
        first: number of its first environment; those of a batch follow.
    """

    def __init__(self, first: int) -> None:
        if first < 0:
            raise ValueError(f"Streams are numbered from 0, got first={first}.")
        super().__init__()
        self.first = first

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return tensordict_reset.set(STREAM, self._numbers(tensordict_reset))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return next_tensordict.set(STREAM, self._numbers(next_tensordict))

    def _numbers(self, tensordict: TensorDictBase) -> Tensor:
        batch = tensordict.batch_size
        return self.first + torch.arange(batch.numel(), device=tensordict.device).reshape(batch)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        batch = observation_spec.shape
        observation_spec[STREAM] = Unbounded(batch, dtype=torch.int64, device=observation_spec.device)
        return observation_spec
