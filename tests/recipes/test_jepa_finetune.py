"""A JEPA that goes on from old weights, with budgets of seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_tasks import write_episodes
from torch import Tensor
from torchrl.data import Bounded, Composite

from worldloom_rl.models.jepa import JEPA
from worldloom_rl.recipes import jepa, jepa_finetune
from worldloom_rl.recipes.finetune_options import FineTunedJEPARunConfig as Config
from worldloom_rl.recipes.jepa_finetune import RECIPE
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import load_state, save_state

ROOM = "worldloom/PointRoom-v0"
FEW = ("batch_size=8", "num_samples=8", "num_elites=2", "iterations=1", "horizon=2", "warmup=0.1", "dropout=0.1")
PARTS = ("encoder", "projector", "action_encoder", "predictor", "prediction_projector")


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_episodes(tmp_path_factory.mktemp("episodes") / "videos"))


@pytest.fixture(scope="module")
def old(episodes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that learned a little, so that its actions' and batch norms' numbers are no fresh ones'."""
    state = jepa.make_state(jepa.Config(data=episodes, frame_skip=2, overrides=FEW, steps=3))
    while state.updates < 3:
        loop.step(jepa.RECIPE, state)
    path = tmp_path_factory.mktemp("old") / "model"
    state.model.save_pretrained(path)
    state.close()
    return path


def small(old: Path, directory: Path, **changes: Any) -> Config:
    directory.mkdir(exist_ok=True)
    values = {"overrides": ("learning_rate=0.01",), "steps": 12, "frame_skip": 2, "run_directory": str(directory)}
    return Config(**{**values, "started_from": str(old), **changes})


def learned(config: Config, updates: int) -> jepa.State:
    state = RECIPE.make_state(config)
    while state.updates < updates:
        loop.step(RECIPE, state)
    return state


def weights(path: Path) -> dict[str, Tensor]:
    return JEPA.from_pretrained(path).state_dict()


@pytest.mark.parametrize("frozen", PARTS)
def test_a_frozen_part_does_not_move_and_the_others_do(frozen: str, episodes: str, old: Path, tmp_path: Path) -> None:
    state = learned(small(old, tmp_path / "run", data=episodes, freeze=(frozen,)), 2)
    before, now = weights(old), state.model.state_dict()
    state.close()
    assert before.keys() == now.keys()
    moved = {name for name, value in now.items() if not torch.equal(value, before[name])}
    assert not {name for name in moved if name.startswith(f"{frozen}.")}
    for part in PARTS:
        assert part == frozen or any(name.startswith(f"{part}.") for name in moved), part
    assert not moved & {"action_encoder.mean", "action_encoder.std"}


def test_it_goes_on_bit_for_bit_without_the_old_model(episodes: str, old: Path, tmp_path: Path) -> None:
    config = small(old, tmp_path / "run", data=episodes)
    state = learned(config, 2)
    (tmp_path / "saved").mkdir()
    save_state(RECIPE, state, tmp_path / "saved")
    while state.updates < 4:
        loop.step(RECIPE, state)
    resumed = load_state(RECIPE, dataclasses.replace(config, started_from="gone"), tmp_path / "saved")
    while resumed.updates < 4:
        loop.step(RECIPE, resumed)
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    state.close()
    resumed.close()


def test_it_goes_on_in_an_environment_with_new_updates_over_all_steps(old: Path, tmp_path: Path) -> None:
    state = jepa.make_state(jepa.Config(env=ROOM, overrides=FEW, image_size=16, collect=40, steps=2))
    state.model.save_pretrained(tmp_path / "model")
    state.close()
    state = learned(
        small(tmp_path / "model", tmp_path / "run", env=ROOM, image_size=16, collect=40, frame_skip=1, began_as=()), 1
    )
    assert (state.agent_steps, state.model.config.learning_rate) == (40, 0.01)
    assert RECIPE.describe(state).startswith("learns without rewards from 40 agent")
    assert state.config.found == (f"begins with {tmp_path / 'model'}",)
    state.close()


def test_an_action_means_what_it_meant_whatever_its_bounds_are(old: Path, tmp_path: Path) -> None:
    before = JEPA.from_pretrained(old)
    config = small(old, tmp_path / "run", data="any")
    low, high = torch.tensor([-3.0, -1.0, 0.0, -9.0]), torch.tensor([1.0, 7.0, 0.5, 9.0])
    spec = Composite(action=Bounded(low, high, shape=(4,), dtype=torch.float32))
    now = jepa_finetune.fit(config, before, before.observation_spec, spec)
    action = torch.rand(6, 4) * (high - low) + low
    embedded = [model.action_encoder(model.action_space.flatten({"action": action})) for model in (before, now)]
    torch.testing.assert_close(embedded[0], embedded[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"frame_skip": 3},
            r"takes action \[6\] continuous, but the model of .* action \[4\].*Give --frame-skip 2",
        ),
        ({"image_size": 8}, r"observes pixels \[3, 8, 8\] uint8, but the model of .* \[3, 16, 16\].*--image-size 16"),
        ({"overrides": ("latent_dim=4",)}, "fine-tuning keeps its numbers of layers, units and bins"),
        ({"freeze": ("eyes",)}, r"--freeze takes parts of the model, which are .*'predictor'.*, got 'eyes'"),
        ({"freeze": PARTS}, "leaves no weight that could learn"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    changes: dict[str, Any], said: str, episodes: str, old: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        RECIPE.make_state(small(old, tmp_path / "run", **{"data": episodes, **changes}))
