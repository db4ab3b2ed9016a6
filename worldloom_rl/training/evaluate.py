"""Evaluation: one whole episode in each of several environments, planned for side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import RandomPolicy


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths (agent steps) of whole episodes, played after `agent_steps` of training."""

    agent_steps: int
    returns: list[float]
    lengths: list[int]

    @property
    def mean_return(self) -> float:
        """Mean over the episodes."""
        return sum(self.returns) / len(self.returns)


def with_primers(env: EnvBase, policy: TensorDictModuleBase) -> EnvBase:
    """The environment with a place for whatever the policy carries, as collectors make it by themselves."""
    for module in policy.modules():
        if hasattr(module, "make_tensordict_primer"):
            env = env.append_transform(module.make_tensordict_primer())
    return env


@torch.no_grad()
def evaluate(env: EnvBase, policy: TensorDictModuleBase | RandomPolicy, agent_steps: int, seed: int) -> Evaluation:
    """One episode in each environment of the batch, under ExplorationType.DETERMINISTIC.

    Args:
        env: batch [] or [E], see `with_primers`.
        seed: of the environments.
    """
    weights = policy.parameters() if isinstance(policy, nn.Module) else iter(())
    device = next((weight.device for weight in weights), env.device)
    env.set_seed(seed)
    td = env.reset()
    running = torch.ones(max(1, env.batch_size.numel()), dtype=torch.bool)
    returns = torch.zeros(len(running), dtype=torch.float64)
    lengths = torch.zeros(len(running), dtype=torch.int64)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        while running.any():
            arrived, td = env.step_and_maybe_reset(policy(td.to(device)).to(env.device))
            reward, done = (arrived["next", key].reshape(len(running)).cpu() for key in ("reward", "done"))
            returns += torch.where(running, reward, torch.zeros_like(reward)).double()
            lengths += running.long()
            running &= ~done
    return Evaluation(agent_steps, returns.tolist(), lengths.tolist())
