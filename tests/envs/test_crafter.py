"""Crafter over a game whose end is known, and over the real one where it is installed."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from worldloom_rl.envs import episode_length, make_env


class Survival:
    """In place of `crafter.Env`: dies at step 5 of its episodes, and its image shows its seed."""

    def __init__(self, size: tuple[int, int], reward: bool, length: int, seed: int) -> None:
        self.size, self.reward, self.length, self.seed = size, reward, length, seed

    def image(self) -> np.ndarray:
        return np.full((*self.size, 3), self.seed % 256, np.uint8)

    def reset(self) -> np.ndarray:
        self.steps = 0
        return self.image()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        self.steps += 1
        dead = self.steps == 5
        info = {"discount": 1 - float(dead), "player_pos": np.zeros(2)}
        return self.image(), float(self.reward), dead or self.steps >= self.length, info


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("crafter")
    module.Env, module.constants = Survival, SimpleNamespace(actions=["noop"] * 17)
    monkeypatch.setitem(sys.modules, "crafter", module)


@pytest.mark.parametrize(("limit", "length", "dies"), [(None, 5, True), (5, 5, True), (4, 4, False)])
def test_death_terminates_and_the_time_limit_truncates(game: None, limit: int | None, length: int, dies: bool) -> None:
    steps = make_env("crafter:reward", time_limit=limit).rollout(100)["next"]
    assert len(steps) == length
    assert (steps["terminated"][-1].item(), steps["truncated"][-1].item()) == (dies, not dies)
    assert not steps["done"][:-1].any()


def test_the_task_says_whether_there_are_rewards(game: None) -> None:
    assert make_env("crafter").rollout(3)["next", "reward"].flatten().tolist() == [1.0] * 3
    assert make_env("crafter:reward").rollout(3)["next", "reward"].flatten().tolist() == [1.0] * 3
    assert make_env("crafter:noreward").rollout(3)["next", "reward"].flatten().tolist() == [0.0] * 3
    with pytest.raises(ValueError, match=r"reward and noreward, not 'survive'"):
        make_env("crafter:survive")


def test_a_seed_reaches_the_game(game: None) -> None:
    assert (make_env("crafter:reward", seed=77).reset()["observation"] == 77).all()


def test_pixels_are_drawn_at_the_size_asked_for(game: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Survival, "render", Survival.image, raising=False)
    assert make_env("crafter:reward", pixels=True, image_size=80).reset()["pixels"].shape == (3, 80, 80)


def test_a_missing_game_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crafter", None)
    with pytest.raises(ImportError, match=r"worldloom-rl\[crafter\]"):
        make_env("crafter:reward")


def test_the_real_game_is_seen_channels_first_and_ends_by_its_limit() -> None:
    pytest.importorskip("crafter")
    env = make_env("crafter:reward", time_limit=7)
    check_env_specs(env)
    steps = env.rollout(100)
    assert (steps["observation"].shape, steps["observation"].dtype) == ((7, 3, 64, 64), torch.uint8)
    assert steps["action"].shape == (7, 17)
    assert steps["next", "truncated"].flatten().tolist() == [False] * 6 + [True]
    assert episode_length(make_env("crafter:reward")) == 10_000


def test_a_seed_gives_the_world_that_the_real_game_gives() -> None:
    crafter = pytest.importorskip("crafter")
    env = make_env("crafter:reward", seed=4)
    game = crafter.Env(seed=4)
    game.reset()  # spent by seeding
    np.testing.assert_array_equal(env.reset()["observation"].numpy(), game.reset().transpose(2, 0, 1))
