"""Runs that begin with a trained model, with budgets of seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from worldloom_rl.envs import make_env
from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config
from worldloom_rl.recipes import tdmpc2_finetune
from worldloom_rl.recipes.finetune_options import FineTunedTDMPC2RunConfig
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.tasks import TaskSet

PENDULUM, CAR = "Pendulum-v1", "MountainCarContinuous-v0"
NUMBERS = TDMPC2Config.from_size(
    "tiny", num_samples=8, num_elites=2, num_policy_trajectories=2, iterations=1, batch_size=8, encoder_dim=16,
    mlp_dim=16, latent_dim=16, updates_per_step=0.25, task_dim=4,
)  # fmt: skip
TASKS = TaskSet(("dmc:cup-catch", CAR, PENDULUM), (8, 2, 3), (2, 1, 1), (500, 999, 200))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of one task and of three, with weights that all differ from zero."""
    torch.manual_seed(0)
    env = make_env(PENDULUM, time_limit=12)
    models = {"one": TDMPC2(NUMBERS, *specs_of(env)), "three": TDMPC2.for_tasks(NUMBERS, TASKS)}
    env.close()
    folder = tmp_path_factory.mktemp("saved")
    for name, model in models.items():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder / name)
    return {name: folder / name for name in models}


def small(started_from: Path, directory: Path, **changes: Any) -> FineTunedTDMPC2RunConfig:
    values: dict[str, Any] = {
        "env": PENDULUM, "env_kwargs": ("g=14",), "time_limit": 12, "steps": 24, "eval_every": 100, "eval_episodes": 1,
        "final_eval_episodes": 1, "started_from": str(started_from), "run_directory": str(directory),
        "first_evaluation": False,
    }  # fmt: skip
    fields = tdmpc2_finetune.fields_of(TDMPC2.from_pretrained(started_from))
    return FineTunedTDMPC2RunConfig(**{**values, **fields, **changes})


def test_a_run_of_one_task_begins_with_the_old_weights_and_acts_at_once(saved: dict[str, Path], tmp_path: Path) -> None:
    old = TDMPC2.from_pretrained(saved["one"])
    state = tdmpc2_finetune.make_state(small(saved["one"], tmp_path))
    ours = state.model.state_dict()
    assert ours.keys() == old.state_dict().keys()
    for name, value in old.state_dict().items():
        assert torch.equal(value, ours[name]), name
    transitions = state.source.collect()
    assert transitions is not None
    with torch.no_grad():
        latent = (
            transitions["latent", "deterministic"] if ("latent", "deterministic") in transitions.keys(True) else None
        )
    assert latent is not None  # the model was asked, and nothing drawn at random
    assert state.source.environment is not None
    assert state.learning_starts == 12
    state.close()
