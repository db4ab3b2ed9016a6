"""Model predictive path integral control: elites weighted by the exponential of their value."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldloom_rl.latents.categorical import gumbel_argmax
from worldloom_rl.noise import Noise
from worldloom_rl.planners.options import PlanKeywords, PlanOptions
from worldloom_rl.planners.plan import plan, take_sequences
from worldloom_rl.planners.policy import Planner
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.world_model import WorldModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULTS = PlanOptions(horizon=3, min_std=0.05)


class MPPIKeywords(PlanKeywords, total=False):
    """The keywords of `MPPIPlanner`, for type checkers."""

    temperature: float
    noise: Noise | None


def score(elite_value: Tensor, *, temperature: float) -> Tensor:
    """[B, K] softmax of the values times the temperature."""
    weight = torch.exp(temperature * (elite_value - elite_value.amax(-1, keepdim=True)))
    return weight / weight.sum(-1, keepdim=True)


def choose(space: ActionSpace, mean: Tensor, elites: Tensor, weight: Tensor, noise: Noise) -> Tensor:
    """[H, B, A] one elite sequence, with probability equal to its weight, also when not exploring."""
    elite = gumbel_argmax(weight, noise.exponential("elite", weight.shape, weight))
    return take_sequences(elites, elite.unsqueeze(-1)).squeeze(2)


class MPPIPlanner(Planner):
    """MPPI as TD-MPC2 uses it.

    Args:
        temperature: multiplies the elites' values before the softmax; higher is greedier. Values are shifted by their
            maximum first, so that rewards of any size or offset are safe.
        noise: source of random draws; by default the model's.
        options: fields of `PlanOptions`.
    Reference: Williams et al. 2017; Hansen et al. 2024 (arXiv:2310.16828), tdmpc2.py, _plan.
    """

    def __init__(
        self,
        model: WorldModel,
        *,
        temperature: float = 0.5,
        noise: Noise | None = None,
        **options: Unpack[PlanKeywords],
    ) -> None:
        if not temperature >= 0:
            raise ValueError(f"temperature must not be negative, got {temperature}.")
        weigh = partial(score, temperature=temperature)
        super().__init__(model, replace(DEFAULTS, **options), partial(plan, score=weigh, choose=choose), noise=noise)
