"""Model predictive path integral control: elites weighted by the exponential of their value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldloom_rl.latents.categorical import gumbel_argmax
from worldloom_rl.noise import Noise
from worldloom_rl.planners.base import LatentFunction, SamplingOptions, SamplingPlanner, TerminationRule
from worldloom_rl.planners.termination import soft_continue
from worldloom_rl.world_model import WorldModel

if TYPE_CHECKING:
    from typing_extensions import Unpack


class MPPIPlanner(SamplingPlanner):
    """MPPI as TD-MPC2 uses it; see `SamplingPlanner` for the arguments and options that planners share.

    Args:
        temperature: multiplies the elites' values before the softmax; higher is greedier. Values are shifted by their
            maximum first, so that rewards of any size or offset are safe.
    Reference: Williams et al. 2017; Hansen et al. 2024 (arXiv:2310.16828), tdmpc2.py, _plan.
    """

    def __init__(
        self,
        model: WorldModel,
        *,
        horizon: int = 3,
        iterations: int = 6,
        num_samples: int = 512,
        num_elites: int = 64,
        num_policy_trajectories: int = 0,
        min_std: float = 0.05,
        max_std: float = 2.0,
        temperature: float = 0.5,
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
        if not temperature >= 0:
            raise ValueError(f"temperature must not be negative, got {temperature}.")
        self.temperature = temperature

    def _score(self, elite_value: Tensor) -> Tensor:
        score = torch.exp(self.temperature * (elite_value - elite_value.amax(-1, keepdim=True)))
        return score / score.sum(-1, keepdim=True)

    def _choose(self, mean: Tensor, elites: Tensor, score: Tensor, noise: Noise) -> Tensor:
        # Gumbel-max: one elite sequence, with probability equal to its score, also when not exploring.
        elite = gumbel_argmax(score, noise.exponential("elite", score.shape, score))
        return elites.take_along_dim(elite[None, :, None, None], 2).squeeze(2)
