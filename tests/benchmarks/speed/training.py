"""Whole training steps, what a user waits for: environment, acting, replay and updates as a run makes them.

The environment is DM Control's walker, whose 24 numbers and 6 actions are those of the other workloads.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from speed.workload import Call, Mode, Workload
from worldloom_rl.recipes import dreamerv3, tdmpc2
from worldloom_rl.recipes.options import CapturedRunConfig
from worldloom_rl.training import loop
from worldloom_rl.training.compilation import compile_modules
from worldloom_rl.training.recipe import Recipe

ENVIRONMENT = "dmc:walker-walk"


def train(recipe: Recipe[Any, Any, Any], preset: str, steps: int, mode: Mode, **options: int) -> Call:
    """So many agent steps with the updates that they are due, of a run that has just begun to learn."""
    device = torch.empty(0).device.type
    config = recipe.config_class(env=ENVIRONMENT, preset=preset, device=device, **options)
    assert isinstance(config, CapturedRunConfig)
    if mode == "recorded":
        config = recipe.config_class(env=ENVIRONMENT, preset=preset, device=device, cuda_graphs=True, **options)
    with torch.device("cpu"):
        state = recipe.make_state(recipe.settle(config))
        while state.agent_steps < state.learning_starts:
            loop.step(recipe, state)
    state.updates_due = 0.0  # what those steps would be due is no part of a step
    if mode == "compiled":
        compile_modules(state.model.step_modules())

    def call() -> None:
        end = state.agent_steps + steps
        while state.agent_steps < end or state.updates_due >= 1:
            loop.step(recipe, state)

    return call


def _workload(name: str, claim: str, make: partial[Call], gflop: float) -> Workload:
    return Workload(name, f"{claim}, in DM Control's walker", make, gflop, needs="dm_control")


WORKLOADS = [
    _workload(
        "train-tdmpc2-5m",
        "TD-MPC2 5M trains for one agent step: two simulator steps, a plan, replay, an update",
        partial(train, tdmpc2.RECIPE, "5m", 1, seed_steps=500),
        46.43 + 40.45,
    ),
    *(
        _workload(
            f"train-dreamer-{size.removeprefix('size')}{'-bfloat16' * bfloat16}",
            f"DreamerV3 {size} trains for two agent steps{' in bfloat16' * bfloat16}: four simulator steps, acting, "
            "replay, an update of 16 x 64",
            partial(train, dreamerv3.RECIPE, size, 2, bfloat16=bfloat16),
            gflop,
        )
        for size, gflop in (("size1m", 31.67), ("size12m", 470.3))
        for bfloat16 in (False, True)
    ),
]
