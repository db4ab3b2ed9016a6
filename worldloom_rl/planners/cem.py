"""The cross-entropy method: the distribution refitted to the best sequences, all weighing the same."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldloom_rl.noise import Noise
from worldloom_rl.planners.distribution import likeliest
from worldloom_rl.planners.options import PlanKeywords, PlanOptions
from worldloom_rl.planners.plan import Choose, plan
from worldloom_rl.planners.policy import Planner
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.world_model import WorldModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULTS = PlanOptions()


def score(elite_value: Tensor) -> Tensor:
    """[B, K] the same weight for every elite."""
    return torch.full_like(elite_value, 1.0 / elite_value.shape[-1])


def choose(space: ActionSpace, mean: Tensor, elites: Tensor, weight: Tensor, noise: Noise) -> Tensor:
    """[H, B, A] the refitted mean, of categoricals the likeliest classes."""
    return likeliest(space, mean)


class CEMPlanner(Planner):
    """CEM; executes the refitted mean, its first action unless told otherwise.

    Args:
        choose: what is executed, if not the mean: a function of (action space, mean, elites, weights, noise).
        noise: source of random draws; by default the model's.
        options: fields of `PlanOptions`.
    Reference: Rubinstein 1999; as a planner Chua et al. 2018 (arXiv:1805.12114).
    """

    def __init__(
        self,
        model: WorldModel,
        *,
        choose: Choose = choose,
        noise: Noise | None = None,
        **options: Unpack[PlanKeywords],
    ) -> None:
        super().__init__(model, replace(DEFAULTS, **options), partial(plan, score=score, choose=choose), noise=noise)
