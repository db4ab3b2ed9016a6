"""The official settings of a suite come by themselves, and count less than what a person says."""

from __future__ import annotations

from typing import Any

import pytest

from worldloom_rl.recipes.options import DreamerV3RunConfig, TDMPC2RunConfig


@pytest.mark.parametrize(
    ("env", "options", "repeat", "ratio"),
    [
        ("dmc:walker-walk", {}, 2, 512),  # as the published curves were made
        ("dmc:walker-walk", {"pixels": True}, 2, 512),
        ("dmc:walker-walk", {"suite": "today"}, 1, 1024),
        ("dmc:walker-walk", {"suite": "today", "pixels": True}, 1, 256),
        ("dmc:walker-walk", {"suite": "none"}, 2, 32),
        ("dmc:walker-walk", {"action_repeat": 4}, 4, 512),
        ("ale:Pong", {}, 1, 32),
        ("ale100k:Pong", {}, 1, 256),
        ("crafter", {}, 1, 512),
        ("Pendulum-v1", {}, 1, 32),
    ],
)
@pytest.mark.parametrize("preset", ["size1m", "size12m"])
def test_dreamerv3_learns_as_often_as_its_authors_let_it(
    env: str, options: dict[str, Any], repeat: int, ratio: float, preset: str
) -> None:
    config = DreamerV3RunConfig(env=env, preset=preset, **options)
    numbers = config.model_config
    assert config.repeat == repeat
    assert numbers.updates_per_step * numbers.batch_size * numbers.batch_length == ratio


def test_an_override_counts_more_than_the_suite_and_the_ratio_follows_the_batch() -> None:
    own = DreamerV3RunConfig(env="dmc:walker-walk", preset="size1m", overrides=("updates_per_step=0.1",))
    assert own.model_config.updates_per_step == 0.1
    smaller = DreamerV3RunConfig(env="dmc:walker-walk", preset="size1m", overrides=("batch_size=8",))
    assert smaller.model_config.updates_per_step == 1.0


@pytest.mark.parametrize(
    ("env", "options", "repeat", "rho", "discount"),
    [
        ("dmc:walker-walk", {}, 2, 0.5, 0.99),
        ("HalfCheetah-v5", {}, 1, 0.7, 0.99),
        ("LunarLander-v3", {}, 1, 0.7, 0.99),
        ("HalfCheetah-v5", {"suite": "none"}, 1, 0.5, 0.995),
        ("HalfCheetah-v5", {"overrides": ("rho=0.6", "discount=0.97")}, 1, 0.6, 0.97),
        ("Pendulum-v1", {}, 1, 0.5, 0.995),
    ],
)
def test_tdmpc2_has_its_authors_numbers_for_gymnasiums_tasks(
    env: str, options: dict[str, Any], repeat: int, rho: float, discount: float
) -> None:
    config = TDMPC2RunConfig(env=env, **options)
    numbers = config.model_config(1000 if env != "dmc:walker-walk" else 500)
    assert (config.repeat, numbers.rho) == (repeat, rho)
    assert numbers.discount == pytest.approx(discount)


def test_the_first_line_says_what_the_suite_set_and_what_the_official_runs_had() -> None:
    published = DreamerV3RunConfig(env="dmc:walker-walk").official
    assert str(published) == (
        "; DM Control, as published: official settings, action repeat 2, train_ratio 512 (made with size12m, 8 "
        "environments)"
    )
    assert "action repeat 1, rho 0.7, discount at most 0.99 (" in str(TDMPC2RunConfig(env="Hopper-v5").official)
    assert str(DreamerV3RunConfig(env="Pendulum-v1").official) == ""


def test_the_first_line_names_nothing_that_is_said_otherwise() -> None:
    repeated = DreamerV3RunConfig(env="dmc:walker-walk", action_repeat=4).official
    assert "official settings, train_ratio 512 (" in str(repeated)
    rate = DreamerV3RunConfig(env="dmc:walker-walk", overrides=("updates_per_step = 0.1",)).official
    assert "official settings, action repeat 2 (" in str(rate)
    hopper = TDMPC2RunConfig(env="Hopper-v5", action_repeat=2, overrides=("rho=0.6", "discount=0.97")).official
    assert str(hopper) == ""


@pytest.mark.parametrize(
    ("options", "bias", "rho", "tau"),
    [
        ({}, 0.03, 1.0, 0.05),
        ({"episodic": False}, 0.0, 0.5, 0.01),
        ({"preset": "1m"}, 0.0, 0.5, 0.01),
        ({"suite": "none"}, 0.0, 0.5, 0.01),
        ({"overrides": ("tau=0.02",)}, 0.03, 1.0, 0.02),
        ({"env": "LunarLander-v3"}, 0.03, 0.7, 0.05),  # its authors' rho counts more
    ],
)
def test_the_smallest_tdmpc2_has_numbers_for_episodes_that_end(
    options: dict[str, Any], bias: float, rho: float, tau: float
) -> None:
    config = TDMPC2RunConfig(**{"env": "CartPole-v1", "episodic": True, **options})
    numbers = config.model_config(500)
    assert (numbers.encoder_bias_std, numbers.rho, numbers.tau) == (bias, rho, tau)
