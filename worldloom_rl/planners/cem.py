"""The cross-entropy method: the distribution refitted to the best sequences, all weighing the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldloom_rl.noise import Noise
from worldloom_rl.planners.base import LatentFunction, SamplingPlanner, TerminationRule
from worldloom_rl.planners.termination import soft_continue
from worldloom_rl.world_model import WorldModel


class CEMPlanner(SamplingPlanner):
    """CEM; executes the first action of the refitted mean. See `SamplingPlanner` for the arguments that planners share.

    Args:
        momentum: share of the previous mean and standard deviation kept when refitting.
    Reference: Rubinstein 1999; as a planner Chua et al. 2018 (arXiv:1805.12114).
    """

    def __init__(
        self,
        model: WorldModel,
        *,
        horizon: int = 5,
        iterations: int = 6,
        num_samples: int = 512,
        num_elites: int = 64,
        num_policy_trajectories: int = 0,
        min_std: float = 0.0,
        max_std: float = 2.0,
        momentum: float = 0.0,
        floor: float = 0.05,
        policy_prior: LatentFunction | None = None,
        terminal_value: LatentFunction | None = None,
        termination: TerminationRule = soft_continue,
        noise: Noise | None = None,
    ) -> None:
        super().__init__(
            model,
            horizon=horizon,
            iterations=iterations,
            num_samples=num_samples,
            num_elites=num_elites,
            num_policy_trajectories=num_policy_trajectories,
            min_std=min_std,
            max_std=max_std,
            floor=floor,
            policy_prior=policy_prior,
            terminal_value=terminal_value,
            termination=termination,
            noise=noise,
        )
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}.")
        self.momentum = momentum

    def _score(self, elite_value: Tensor) -> Tensor:
        return torch.full_like(elite_value, 1.0 / self.num_elites)

    def _refit(self, elites: Tensor, score: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        new_mean, new_std = super()._refit(elites, score, mean, std)
        return torch.lerp(new_mean, mean, self.momentum), torch.lerp(new_std, std, self.momentum)

    def _choose(self, mean: Tensor, elites: Tensor, score: Tensor, noise: Noise) -> Tensor:
        action = mean
        for start, stop in self.model.action_space.groups:
            best = F.one_hot(mean[..., start:stop].argmax(-1), stop - start).to(mean.dtype)
            action = torch.cat([action[..., :start], best, action[..., stop:]], -1)
        return action
