"""iCEM: the cross-entropy method with coloured noise, fewer samples each round, and elites that live on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from worldloom_rl.noise import Noise
from worldloom_rl.planners.cem import score
from worldloom_rl.planners.draws import Coloured
from worldloom_rl.planners.options import PlanKeywords, PlanOptions
from worldloom_rl.planners.plan import plan
from worldloom_rl.planners.policy import Planner
from worldloom_rl.planners.predictive_sampling import choose
from worldloom_rl.world_model import WorldModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULTS = PlanOptions(
    horizon=10,
    iterations=3,
    num_samples=128,
    num_elites=10,
    include_mean=True,
    keep_elites=3,
    carry_elites=3,
    decay=0.8,
    init_std=0.5,
    momentum=0.1,
    draws=Coloured(2.0),
)


class ICEMPlanner(Planner):
    """iCEM; executes the best sequence of the last round.

    A share of the elites stands among the samples of the next round and, moved by what was executed, of the next plan.
    The mean is a sample in every round, where the paper has it in the last.

    Args:
        noise: source of random draws; by default the model's.
        options: fields of `PlanOptions`; `draws=Coloured(exponent)` is the colour, which the paper tunes by task.
    Reference: Pinneri et al. 2020 (arXiv:2008.06389).
    """

    def __init__(self, model: WorldModel, *, noise: Noise | None = None, **options: Unpack[PlanKeywords]) -> None:
        super().__init__(model, replace(DEFAULTS, **options), partial(plan, score=score, choose=choose), noise=noise)
