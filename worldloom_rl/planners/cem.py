"""The cross-entropy method: the distribution refitted to the best sequences, all weighing the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldloom_rl.noise import Noise
from worldloom_rl.planners.base import LatentFunction, SamplingOptions, SamplingPlanner, TerminationRule
from worldloom_rl.planners.termination import soft_continue
from worldloom_rl.world_model import WorldModel

if TYPE_CHECKING:
    from typing_extensions import Unpack


class CEMPlanner(SamplingPlanner):
    """CEM; executes the refitted mean, its first action unless told otherwise.

    See `SamplingPlanner` for the arguments and options that planners share.

    Args:
        unbiased_std: divide the elites' squared deviations by K − 1, not K.
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
        unbiased_std: bool = False,
        floor: float = 0.05,
        policy_prior: LatentFunction | None = None,
        terminal_value: LatentFunction | None = None,
        termination: TerminationRule = soft_continue,
        noise: Noise | None = None,
        **options: Unpack[SamplingOptions],
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
            **options,
        )
        if unbiased_std and num_elites < 2:
            raise ValueError("unbiased_std needs at least 2 elites.")
        self.unbiased_std = unbiased_std

    def _score(self, elite_value: Tensor) -> Tensor:
        return torch.full_like(elite_value, 1.0 / self.num_elites)

    def _deviation(self, variance: Tensor) -> Tensor:
        if self.unbiased_std:
            variance = variance * (self.num_elites / (self.num_elites - 1))
        return variance.sqrt()

    def _choose(self, mean: Tensor, elites: Tensor, score: Tensor, noise: Noise) -> Tensor:
        return self._likeliest(mean)
