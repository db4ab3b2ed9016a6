"""Predictive sampling: the best of noisy copies of the previous plan, itself among them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldloom_rl.noise import Noise
from worldloom_rl.planners.options import PlanKeywords, PlanOptions
from worldloom_rl.planners.plan import plan
from worldloom_rl.planners.policy import Planner
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.world_model import WorldModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULTS = PlanOptions(iterations=1, num_elites=1, include_mean=True, init_std=0.3, min_std=0.3)


def score(elite_value: Tensor) -> Tensor:
    """[B, K] 1 for the best sequence, 0 for the others."""
    best = torch.zeros_like(elite_value)
    best[:, 0] = 1.0
    return best


def choose(space: ActionSpace, mean: Tensor, elites: Tensor, weight: Tensor, noise: Noise) -> Tensor:
    """[H, B, A] the best sequence."""
    return elites[:, :, 0]


class PredictiveSamplingPlanner(Planner):
    """Predictive sampling; executes the best sequence, which is the next plan's warm start.

    The noise around the warm start has the deviation `init_std`, in further iterations `min_std`.

    Args:
        noise: source of random draws; by default the model's.
        options: fields of `PlanOptions`.
    Reference: Howell et al. 2022 (arXiv:2212.00541), without splines: a sequence has an action of its own a step.
    """

    def __init__(self, model: WorldModel, *, noise: Noise | None = None, **options: Unpack[PlanKeywords]) -> None:
        super().__init__(model, replace(DEFAULTS, **options), partial(plan, score=score, choose=choose), noise=noise)
