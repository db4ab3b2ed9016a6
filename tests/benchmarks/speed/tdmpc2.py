"""TD-MPC2's workloads: the official agent of 5 million parameters, 24 numbers observed, 6 actions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from speed.torchrl_peers import planner_peer
from speed.workload import Call, Mode, Workload
from worldloom_rl.config import Json
from worldloom_rl.keys import PLANNER_MEAN
from worldloom_rl.models.tdmpc2 import TDMPC2, PolicyLoss, TDMPC2Config, make_policy
from worldloom_rl.objectives import WorldModelLoss
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.recipes.tdmpc2 import capture_update, make_optimizers, update
from worldloom_rl.training.compilation import compile_modules
from worldloom_rl.training.cuda_graphs import CapturedPolicy

OBSERVED, ACTIONS = 24, 6


def make_model(*, compiled: bool = False, **numbers: Json) -> TDMPC2:
    """The model of the workloads, with numbers of its configuration replaced."""
    _, config = find_preset("tdmpc2:5m")
    assert isinstance(config, TDMPC2Config)
    observation_spec = Composite(observation=Unbounded((OBSERVED,)))
    action_spec = Composite(action=Bounded(-1.0, 1.0, shape=(ACTIONS,), dtype=torch.float32))
    model = TDMPC2(replace(config, **numbers), observation_spec, action_spec).eval()
    if compiled:
        compile_modules(model.step_modules())
    return model


def plan(environments: int, mode: Mode, **numbers: Json) -> Call:
    """One planned, exploring action in each environment: encode, then MPPI."""
    model = make_model(compiled=mode == "compiled", **numbers)
    policy: TensorDictModuleBase = make_policy(model)
    if mode == "recorded":
        policy = CapturedPolicy(policy)
    horizon = model.config.horizon
    state = TensorDict(
        {
            "observation": torch.randn(environments, OBSERVED),
            "is_init": torch.zeros(environments, 1, dtype=torch.bool),
            PLANNER_MEAN: torch.zeros(environments, horizon, ACTIONS),
        },
        batch_size=[environments],
    )

    def call() -> None:
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            policy(state.copy())

    return call


def learn(mode: Mode, **numbers: Json) -> Call:
    """One update from windows of H + 1 rows: model, policy, targets."""
    model = make_model(compiled=mode == "compiled", **numbers)
    losses = WorldModelLoss(model, model.loss_weights), PolicyLoss(model)
    optimizers = make_optimizers(model, capturable=mode == "recorded")
    shape = (model.config.batch_size, model.config.horizon + 1)
    batch = TensorDict(
        {
            "observation": torch.randn(*shape, OBSERVED),
            "previous_action": torch.rand(*shape, ACTIONS) * 2 - 1,
            "reward": torch.randn(*shape, 1),
            "terminated": torch.zeros(*shape, 1, dtype=torch.bool),
            "is_init": torch.zeros(*shape, 1, dtype=torch.bool),
        },
        batch_size=shape,
    )
    if mode == "recorded":
        return partial(capture_update(model, *losses, optimizers), batch)
    return lambda: update(model, *losses, optimizers, batch)


WORKLOADS = [
    Workload(
        "plan",
        "TD-MPC2 5M plans one action: 512 samples, 6 iterations, horizon 3",
        partial(plan, 1),
        46.43,
        peers=(planner_peer(make_model, 1),),
    ),
    Workload(
        "plan4",
        "the same for 4 environments in one call",
        partial(plan, 4),
        185.7,
        peers=(planner_peer(make_model, 4),),
    ),
    Workload("tdmpc2-update", "TD-MPC2 5M learns from 256 windows: model, policy, target Qs", learn, 40.45),
]
