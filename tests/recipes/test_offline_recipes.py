"""DreamerV3 and the token world model from recorded episodes, with budgets of seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_tasks import InMemory, recorded

from worldloom_rl import cli
from worldloom_rl.commands import finish
from worldloom_rl.commands.recipes import find_recipe
from worldloom_rl.data import Episodes, join
from worldloom_rl.training import loop
from worldloom_rl.training import recorded as recorded_module
from worldloom_rl.training.checkpoint import load_state, save_state
from worldloom_rl.training.recipe import AnyRecipe, RunState
from worldloom_rl.training.run_directory import RunDirectory

ENVS = {"dreamerv3": "CartPole-v1", "tokens": "worldloom/Catch-v0"}
SMALL = {
    "dreamerv3": (
        "deterministic=16", "hidden=8", "groups=2", "classes=4", "blocks=2", "units=8", "num_bins=21", "batch_size=4",
        "batch_length=8", "horizon=3",
    ),
    "tokens": (
        "batch_size=4", "depth=2", "width=16", "attention_heads=2", "units=8", "horizon=2", "tokenizer_updates=2",
        "behavior_start=3",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def sources() -> dict[str, InMemory]:
    return {name: recorded(name) for name in ENVS.values()}


@pytest.fixture(autouse=True)
def _open(sources: dict[str, InMemory], monkeypatch: pytest.MonkeyPatch) -> None:
    """`--data NAME` is the recording of that name."""

    def open_episodes(data: tuple[str, ...], tasks: tuple[str, ...], *_: object, **__: object) -> Episodes:
        return join([sources[name] for name in data], tasks)

    monkeypatch.setattr(recorded_module, "open_episodes", open_episodes)


def small(family: str, directory: Path, **changes: object) -> Any:
    values: dict[str, object] = {
        "env": ENVS[family], "data": (ENVS[family],), "time_limit": 12, "steps": 4, "overrides": SMALL[family],
        "eval_every": 10, "eval_episodes": 2, "final_eval_episodes": 2, "run_directory": str(directory),
    }  # fmt: skip
    return find_recipe(f"{family}-offline").config_class(**{**values, **changes})


def advance(recipe: AnyRecipe, state: RunState[Any, Any], updates: int) -> None:
    state.updates_due = float(updates)
    for _ in range(updates):
        assert loop.step(recipe, state) == "training"


@pytest.mark.parametrize("family", ENVS)
def test_an_offline_run_that_is_resumed_goes_on_bit_for_bit(family: str, tmp_path: Path) -> None:
    recipe = find_recipe(f"{family}-offline")
    config = small(family, tmp_path)
    state = recipe.make_state(config)
    advance(recipe, state, 4)
    assert (state.updates, state.agent_steps) == (4, 0)
    (tmp_path / "saved").mkdir()
    save_state(recipe, state, tmp_path / "saved")
    advance(recipe, state, 3)
    resumed = load_state(recipe, config, tmp_path / "saved")
    advance(recipe, resumed, 3)
    weights = resumed.model.state_dict()
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    state.close()
    resumed.close()


def test_dreamerv3_writes_latents_back_to_recorded_rows(tmp_path: Path) -> None:
    recipe = find_recipe("dreamerv3-offline")
    state = recipe.make_state(small("dreamerv3", tmp_path))
    (key, *_) = state.model.latent_keys
    assert (state.source.entries(key)[key] == 0).all()
    loop.step(recipe, state)
    assert (state.source.entries(key)[key] != 0).any()
    state.close()


def test_other_recordings_than_the_run_began_with_are_refused(
    tmp_path: Path, sources: dict[str, InMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, config = find_recipe("dreamerv3-offline"), small("dreamerv3", tmp_path)
    state = recipe.make_state(config)
    (tmp_path / "saved").mkdir()
    save_state(recipe, state, tmp_path / "saved")
    state.close()
    monkeypatch.setitem(sources, ENVS["dreamerv3"], recorded(ENVS["dreamerv3"], episodes=5))
    with pytest.raises(ValueError, match="holds other episodes than when the run began; put those back"):
        load_state(recipe, config, tmp_path / "saved")


def test_recordings_of_another_environment_are_refused(tmp_path: Path, sources: dict[str, InMemory]) -> None:
    with pytest.raises(ValueError, match="There is no episode of the task 'CartPole-v1' in recorded worldloom/Catch"):
        find_recipe("dreamerv3-offline").make_state(small("dreamerv3", tmp_path, data=(ENVS["tokens"],)))


def test_train_with_data_counts_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "finish_run", lambda path: None)
    cli.main(
        ["train", "dreamerv3", "--env", ENVS["dreamerv3"], "--data", ENVS["dreamerv3"], "--time-limit", "12",
         "--steps", "3", "--overrides", *SMALL["dreamerv3"], "--eval-episodes", "1", "--final-eval-episodes", "2",
         "--run-directory", str(tmp_path / "run")]
    )  # fmt: skip
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["updates"], result["agent_steps"], result["clock"]) == (3, 0, "updates")
    config = loop.read_config(find_recipe("dreamerv3-offline"), RunDirectory(tmp_path / "run"))
    assert config.data == (ENVS["dreamerv3"],)
