"""Actor, critic, the critic's slow copy and the return range: the behaviour that DreamerV3 learns in imagination."""

from __future__ import annotations

import copy

import torch
from torch import nn

from worldloom_rl.nn.heads import Actor, TwoHotHead
from worldloom_rl.nn.initialise import initialise_layers
from worldloom_rl.nn.percentile_range import PercentileRange
from worldloom_rl.nn.slow_copy import lerp_parameters
from worldloom_rl.specs.actions import ActionSpace


class ActorCritic(nn.Module):
    """The networks of `ImaginedActorCriticLoss`, over the features [..., F] of any world model.

    Args:
        features: F.
        action_space: of the model.
        units, layers: of actor and critic, hidden.
        bins: of the critic.
        slow_rate: share of the critic that enters its slow copy at each `update_slow`.
        return_rate, return_limit: of the running range of returns.
    """

    def __init__(
        self,
        features: int,
        action_space: ActionSpace,
        *,
        units: int,
        actor_layers: int = 3,
        critic_layers: int = 3,
        bins: int = 255,
        min_std: float = 0.1,
        max_std: float = 1.0,
        slow_rate: float = 0.02,
        return_rate: float = 0.01,
        return_limit: float = 1.0,
    ) -> None:
        super().__init__()
        self.slow_rate = slow_rate
        self.actor = Actor(features, units, actor_layers, action_space, min_std=min_std, max_std=max_std)
        self.critic = TwoHotHead(features, units, critic_layers, bins)
        initialise_layers(self)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.return_range = PercentileRange(rate=return_rate, limit=return_limit)

    @torch.no_grad()
    def update_slow(self) -> None:
        """Move the slow critic towards the critic; once an update, after the optimiser's step."""
        lerp_parameters(self.slow_critic, self.critic, self.slow_rate)
