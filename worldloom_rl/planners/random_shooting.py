"""Random shooting: the best of sequences drawn uniformly, anew at each step."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from worldloom_rl.noise import Noise
from worldloom_rl.planners.draws import uniform
from worldloom_rl.planners.options import PlanKeywords, PlanOptions
from worldloom_rl.planners.plan import plan
from worldloom_rl.planners.policy import Planner
from worldloom_rl.planners.predictive_sampling import choose, score
from worldloom_rl.world_model import WorldModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULTS = PlanOptions(iterations=1, num_elites=1, warm_start=False, init_std=1.0, draws=uniform)


class RandomShootingPlanner(Planner):
    """Random shooting, the baseline of planners; executes the best sequence.

    Args:
        noise: source of random draws; by default the model's.
        options: fields of `PlanOptions`.
    Reference: Rao 2009; as a baseline Nagabandi et al. 2018 (arXiv:1708.02596).
    """

    def __init__(self, model: WorldModel, *, noise: Noise | None = None, **options: Unpack[PlanKeywords]) -> None:
        super().__init__(model, replace(DEFAULTS, **options), partial(plan, score=score, choose=choose), noise=noise)
