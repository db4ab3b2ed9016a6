"""Catch: a perfect player catches all, a random one few, and the image tells everything."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torchrl.envs.utils import check_env_specs

from worldloom_rl import AutoWorldModel
from worldloom_rl.envs import episode_length, make_env
from worldloom_rl.envs.catch import EPISODE_STEPS, Catch


def play(env: Catch, choose, episodes: int) -> list[float]:
    """Rewards at the end of each fall."""
    rewards = []
    for episode in range(episodes):
        env.reset(seed=episode)
        for step in range(EPISODE_STEPS):
            _, reward, terminated, truncated, _ = env.step(choose(env))
            rewards += [reward] if reward else []
            assert not terminated
            assert truncated == (step == EPISODE_STEPS - 1)
    return rewards


def perfect(env: Catch) -> int:
    """Towards where the ball is next."""
    away = min(max(env.column + env.drift, 0), 6) - env.paddle
    return 0 if away == 0 else (1 if away == -1 else 3) if away < 0 else (2 if away == 1 else 4)


def test_gymnasium_finds_nothing_to_complain_about() -> None:
    check_env(gymnasium.make("worldloom/Catch-v0", render_mode="rgb_array").unwrapped)


def test_a_perfect_player_catches_every_ball() -> None:
    rewards = play(Catch(), perfect, 40)
    assert len(rewards) == 400
    assert set(rewards) == {1.0}


def test_every_fall_can_be_caught_from_wherever_the_paddle_stands() -> None:
    env = Catch()
    env.reset(seed=0)
    for column in range(7):
        for drift in (-1, 0, 1):
            for paddle in (0, 6):
                env.row, env.column, env.drift, env.paddle = 0, column, drift, paddle
                reward = 0.0
                while not reward:
                    _, reward, *_ = env.step(perfect(env))
                assert reward == 1.0


def test_a_random_player_catches_less_than_half() -> None:
    chance = np.random.default_rng(0)
    rewards = play(Catch(), lambda env: int(chance.integers(5)), 100)
    assert 0.3 < np.mean(np.array(rewards) == 1.0) < 0.5


def test_the_image_shows_ball_and_paddle_where_the_reward_is_decided() -> None:
    env, seen = Catch(), []
    for episode in range(30):
        env.reset(seed=episode)
        truncated = False
        while not truncated:
            image, reward, _, truncated, _ = env.step(0)
            if reward:
                ball = np.flatnonzero((image[:, :, 0] == 255).any(0))
                paddle = np.flatnonzero((image[:, :, 0] == 0).any(0))
                assert (len(ball), len(paddle)) == (16, 16)
                seen.append((np.isin(ball, paddle).mean() >= 0.5) == (reward > 0))
    assert len(seen) == 300
    assert all(seen)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_the_agent_sees_channels_first_and_one_hot_actions(num_envs: int) -> None:
    env = make_env("worldloom/Catch-v0", num_envs=num_envs, seed=0)
    check_env_specs(env)
    rollout = env.rollout(5)
    assert rollout["observation"].shape[-3:] == (3, 64, 64)
    assert rollout["observation"].dtype == torch.uint8
    assert rollout["action"].shape[-1] == 5
    assert episode_length(env) == EPISODE_STEPS
    env.close()


def test_rendering_gives_the_observed_image_and_a_seed_repeats_an_episode() -> None:
    first, second = (gymnasium.make("worldloom/Catch-v0", render_mode="rgb_array") for _ in range(2))
    for env in (first, second):
        env.reset(seed=3)
    for action in np.random.default_rng(0).integers(5, size=EPISODE_STEPS):
        image, *_ = first.step(action)
        np.testing.assert_array_equal(image, first.render())
        np.testing.assert_array_equal(image, second.step(action)[0])


@pytest.mark.process
def test_worker_processes_find_it() -> None:
    options = {"num_envs": 2, "seed": 0}
    parallel = make_env("worldloom/Catch-v0", parallel=True, **options)
    torch.manual_seed(0)
    found = parallel.rollout(30)
    parallel.close()
    torch.manual_seed(0)
    expected = make_env("worldloom/Catch-v0", **options).rollout(30)
    assert torch.equal(found["next", "observation"], expected["next", "observation"])


@pytest.mark.parametrize("preset", ["tdmpc2:tiny", "dreamerv3:tiny"])
def test_every_family_reads_it(preset: str) -> None:
    env = make_env("worldloom/Catch-v0", seed=0)
    with pytest.warns(UserWarning, match="fresh"):
        model = AutoWorldModel.from_pretrained(preset, env=env)
    assert model.encode(env.reset()).get(("latent", "deterministic")).isfinite().all()
