"""Runs that begin with a trained model, with budgets of seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recorded_tasks import InMemory, recorded

from worldloom_rl.commands.recipes import find_recipe
from worldloom_rl.envs import make_env
from worldloom_rl.models.dreamerv3 import DreamerV3, DreamerV3Config
from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config
from worldloom_rl.models.tdmpc2.new_task import with_task
from worldloom_rl.recipes import tdmpc2_finetune
from worldloom_rl.recipes.finetune_options import FineTunedDreamerV3RunConfig, FineTunedTDMPC2RunConfig
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.tasks import TaskSet
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import load_state, save_state
from worldloom_rl.training.mixed import Mixed

PENDULUM, CAR = "Pendulum-v1", "MountainCarContinuous-v0"
NUMBERS = TDMPC2Config.from_size(
    "tiny", num_samples=8, num_elites=2, num_policy_trajectories=2, iterations=1, batch_size=8, encoder_dim=16,
    mlp_dim=16, latent_dim=16, updates_per_step=0.25, task_dim=4,
)  # fmt: skip
TASKS = TaskSet(("dmc:cup-catch", CAR, PENDULUM), (8, 2, 3), (2, 1, 1), (500, 999, 200))


@pytest.fixture(scope="module")
def recording() -> InMemory:
    return recorded(PENDULUM)


@pytest.fixture(autouse=True)
def _open(recording: InMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tdmpc2_finetune, "open_episodes", lambda *_, **__: recording)


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
    assert ("latent", "deterministic") in transitions.keys(True)  # the model was asked, nothing drawn at random
    assert state.learning_starts == 12
    state.close()


def test_a_new_task_begins_with_the_embedding_of_the_one_it_is_like(saved: dict[str, Path]) -> None:
    old = TDMPC2.from_pretrained(saved["three"])
    task = TaskSet(("mine:Tilted",), (3,), (1,), (200,))
    for like, number in ((PENDULUM, 2), ("cup-catch", 0)):
        new = with_task(old, task, like)
        assert old.task_embedding is not None
        assert new.task_embedding is not None
        assert torch.equal(new.task_embedding.weight[0], old.task_embedding.weight[number])
        for name, value in old.state_dict().items():
            assert name == "task_embedding.weight" or torch.equal(value, new.state_dict()[name]), name
    with pytest.raises(ValueError, match="mine:Wide observes 9 numbers, but the model 8 at most"):
        with_task(old, TaskSet(("mine:Wide",), (9,), (1,), (200,)))
    with pytest.raises(ValueError, match="is none of the tasks"):
        with_task(old, task, "walker-walk")


@pytest.mark.parametrize("data", [(), (PENDULUM,)])
def test_a_frozen_part_stays_and_a_resumed_run_needs_no_old_one(
    data: tuple[str, ...], saved: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "saved").mkdir()
    config = small(saved["three"], tmp_path / "run", like=PENDULUM, freeze=("encoder",), data=data)
    recipe = find_recipe("tdmpc2-finetune")
    state = recipe.make_state(config)
    while state.updates < 3:
        loop.step(recipe, state)
    assert isinstance(state.source, Mixed) == bool(data)
    save_state(recipe, state, tmp_path / "saved")
    while state.updates < 6:
        loop.step(recipe, state)
    resumed = load_state(recipe, dataclasses.replace(config, started_from="gone"), tmp_path / "saved")
    while resumed.updates < 6:
        loop.step(recipe, resumed)
    old = TDMPC2.from_pretrained(saved["three"]).state_dict()
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
        assert not name.startswith("encoder.") or torch.equal(value, old[name]), name
    state.close()
    resumed.close()


def test_other_spaces_are_refused_by_name(saved: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"CartPole-v1 observes observation \[4\] float32, but the model of .* \[3\]"):
        tdmpc2_finetune.make_state(small(saved["one"], tmp_path, env="CartPole-v1", env_kwargs=()))
    with pytest.raises(ValueError, match="--like takes a task of a model of several"):
        tdmpc2_finetune.make_state(small(saved["one"], tmp_path, like="walker-walk"))
    with pytest.raises(ValueError, match=r"--freeze takes parts of the model, which are .*, got 'eyes'"):
        tdmpc2_finetune.make_state(small(saved["one"], tmp_path, freeze=("eyes",)))
    with pytest.raises(ValueError, match="offline_share must be above 0 and below 1"):
        small(saved["one"], tmp_path, data=(PENDULUM,), offline_share=1.0)


def test_what_a_padded_task_was_worth_it_is_worth_in_the_model_of_the_new_one(saved: dict[str, Path]) -> None:
    old = TDMPC2.from_pretrained(saved["three"]).eval()
    new = with_task(old, TaskSet(("mine:Tilted",), (3,), (1,), (200,)), PENDULUM).eval()
    observation = F.pad(torch.randn(4, 3), (0, 5))
    values = []
    for model, task in ((old, 2), (new, 0)):
        given = {"observation": observation, "task": torch.full((4,), task)}
        latent = model.encode_latent(given, model.noise)
        action = torch.tensor([[0.3, 0.0]]).expand(4, 2)
        features = torch.cat([model.latent_features(latent), action], -1)
        values.append((model.behavior.q_ensemble(features), model.action_mask(latent), model.discount(latent)))
    for before, now in zip(*values, strict=True):
        torch.testing.assert_close(before, now)


def test_dreamerv3_goes_on_with_model_and_actor_and_with_recorded_rows(
    recording: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldloom_rl.training.recorded.open_episodes", lambda *_, **__: recording)
    torch.manual_seed(0)
    env = make_env(PENDULUM, time_limit=15)
    numbers = {"batch_size": 4, "batch_length": 8, "imagination_starts": 2, "horizon": 3, "updates_per_step": 0.5}
    old = DreamerV3(DreamerV3Config.from_size("tiny", **numbers), *specs_of(env))
    env.close()
    old.save_pretrained(tmp_path / "old")
    for folder in ("run", "saved"):
        (tmp_path / folder).mkdir()
    config = FineTunedDreamerV3RunConfig(
        env=PENDULUM, env_kwargs=("g=14",), time_limit=15, started_from=str(tmp_path / "old"), data=(PENDULUM,),
        run_directory=str(tmp_path / "run"), steps=60,
    )  # fmt: skip
    recipe = find_recipe("dreamerv3-finetune")
    state = recipe.make_state(config)
    assert isinstance(state.source, Mixed)
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, old.state_dict()[name]), name
    while state.updates < 2:
        loop.step(recipe, state)
    save_state(recipe, state, tmp_path / "saved")
    while state.updates < 4:
        loop.step(recipe, state)
    resumed = load_state(recipe, dataclasses.replace(config, started_from="gone"), tmp_path / "saved")
    while resumed.updates < 4:
        loop.step(recipe, resumed)
    state.close()
    resumed.close()
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
