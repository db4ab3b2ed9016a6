"""Problems, and states of acting in them, that the planner tests share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from analytic_model import Analytic
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, OneHot, TensorSpec, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl.models.tdmpc2 import TDMPC2
from worldloom_rl.planners import CEMPlanner, ICEMPlanner, MPPIPlanner, Planner, PredictiveSamplingPlanner
from worldloom_rl.pretrained.registry import find_preset

PLANNERS = pytest.mark.parametrize("kind", [MPPIPlanner, CEMPlanner, PredictiveSamplingPlanner])
ACTING = pytest.mark.parametrize("kind", [MPPIPlanner, CEMPlanner, PredictiveSamplingPlanner, ICEMPlanner])
BOX = Bounded(-1.0, 1.0, shape=(2,), dtype=torch.float32)
ACTIONS = pytest.mark.parametrize(
    "action",
    [
        Composite(action=BOX),
        Composite(action=OneHot(3)),
        Composite(a=BOX, b=Categorical(3, shape=(), dtype=torch.int64)),
    ],
    ids=["continuous", "discrete", "mixed"],
)
SMALL: dict[str, Any] = {"horizon": 4, "iterations": 3, "num_samples": 16, "num_elites": 4, "min_std": 0.0}
WIDTH = 3


def quadratic(action: TensorSpec = BOX, scale: float = 1.0, shift: float = 0.0) -> Analytic:
    """Reward −|a − tanh(state)|², scaled and shifted; the state drifts with the action."""

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        error = action - torch.tanh(state[..., :1] + torch.arange(action.shape[-1]))
        return (
            0.9 * state + 0.3 * action.sum(-1, keepdim=True),
            shift - scale * error.square().sum(-1, keepdim=True),
            1.0,
        )

    return Analytic(step, action, width=2, gamma=0.9)


def pushed() -> Analytic:
    """The state is pushed by the action towards a place of its own for every dimension."""

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        moved = 0.9 * state + 0.3 * action
        return moved, -(moved - torch.linspace(-0.5, 0.5, WIDTH)).square().sum(-1, keepdim=True), 1.0

    return Analytic(step, Bounded(-1.0, 1.0, shape=(WIDTH,), dtype=torch.float32), width=WIDTH)


def states(batch: int = 2) -> Tensor:
    return torch.randn(batch, WIDTH, generator=torch.Generator().manual_seed(3))


def tdmpc2(action: Composite) -> TDMPC2:
    torch.manual_seed(0)
    model = TDMPC2(find_preset("tdmpc2:tiny")[1], Composite(observation=Unbounded((4,))), action)
    with torch.no_grad():  # fresh reward and Q layers are zero
        for name, parameter in model.named_parameters():
            if "reward_head" in name or "q_ensemble" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def acting_state(planner: Planner, batch: Sequence[int], seed: int = 0) -> TensorDict:
    """A tensordict as an environment hands it to the planner, in the middle of an episode."""
    model, generator = planner.model, torch.Generator().manual_seed(seed)
    td = TensorDict({}, batch)
    for name, leaf in model.latent_spec.items():
        td[model.key_map.leaf(name)] = torch.randn(*batch, *leaf.shape, generator=generator).softmax(-1)
    for key, spec in planner.make_tensordict_primer().primers.items(True, True):
        carried = torch.rand(*batch, *spec.shape, generator=generator) - 0.5
        for start, stop in model.action_space.groups:
            carried[..., start:stop] = (5 * carried[..., start:stop]).softmax(-1)
        td[key] = carried
    td["is_init"] = torch.zeros(*batch, 1, dtype=torch.bool)
    return td


def run(planner: Any, td: TensorDict, noise: Any, exploration: ExplorationType = ExplorationType.RANDOM) -> TensorDict:
    planner.noise = noise
    with set_exploration_type(exploration):
        return planner(td.clone())
