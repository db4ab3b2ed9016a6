"""A policy over the latent, which fused loops call on tensors and everything else on a tensordict."""

from __future__ import annotations

from abc import ABC, abstractmethod

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from worldloom_rl.keys import POLICY_ACTION
from worldloom_rl.noise import Noise
from worldloom_rl.world_model.core import Latent, TensorCore


class LatentPolicy(TensorDictModuleBase, ABC):  # type: ignore[misc]
    """A policy that reads the latent and writes the action: a shell around `act`, which fused loops call directly.

    The flat action stands beside it as it was drawn, for losses that ask how likely that was.
    """

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]

    def __init__(self, model: TensorCore) -> None:
        super().__init__()
        self.model = model
        self.in_keys = list(model.latent_keys)
        self.out_keys = [*model.action_keys, POLICY_ACTION]

    @abstractmethod
    def act(self, latent: Latent, noise: Noise) -> Tensor:
        """[..., A] flat action."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = self.act(self.model.read_latent(tensordict), self.model.noise)
        return self.model.write_action(tensordict, action).set(POLICY_ACTION, action)
