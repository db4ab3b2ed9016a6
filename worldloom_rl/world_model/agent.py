"""A run's policy from the latent on, so that it acts on a dreamt latent as on an observed one."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl.world_model import Latent, Verb, WorldModel


class Agent:
    """Acts without exploration noise, one latent at a time; what a planner carries is handed on.

    Args:
        policy: of the model: what observes, what acts on the latent, what carries.
    """

    def __init__(self, model: WorldModel, policy: TensorDictSequential) -> None:
        self.model = model
        self.policy = TensorDictSequential(*(part for part in policy if not isinstance(part, Verb)))
        self._fresh = TensorDict({}, batch_size=[])
        for part in self.policy.modules():
            if hasattr(part, "make_tensordict_primer"):
                self._fresh.update(part.make_tensordict_primer().primers.zero())

    def act(self, latent: Latent, carried: TensorDictBase | None = None) -> tuple[Tensor, TensorDictBase]:
        """[A] flat action, and what the agent carries to its next one.

        Args:
            carried: from its last action; None where it begins, or somebody else acted.
        """
        device = next(iter(latent.values())).device
        row = (self._fresh if carried is None else carried).to(device)
        row = row.copy().set(self.model.key_map.is_init, torch.tensor([carried is None], device=device))
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            row = self.policy(self.model.write_latent(row, latent))
        return self.model.read_action(row), row.get("next", TensorDict({}, batch_size=[]))
