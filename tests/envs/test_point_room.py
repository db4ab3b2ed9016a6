"""PointRoom: the way to the goal leads there, chance seldom does, and the image tells where the point is."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torchrl.envs.utils import check_env_specs

from worldloom_rl.envs import episode_length, make_env
from worldloom_rl.envs.point_room import EPISODE_STEPS, NEAR, REACH, PointRoom, picture


def successes(choose, episodes: int) -> int:
    env = PointRoom()
    count = 0
    for episode in range(episodes):
        env.reset(seed=episode)
        for step in range(EPISODE_STEPS):
            _, reward, terminated, truncated, info = env.step(choose(env))
            assert reward == pytest.approx(-np.linalg.norm(env.position - env.goal))
            assert (terminated, truncated) == (False, step == EPISODE_STEPS - 1)
            assert ("success" in info) == truncated
        assert info["success"] == (-reward < NEAR)
        count += info["success"]
    return count


def test_gymnasium_finds_nothing_to_complain_about() -> None:
    check_env(gymnasium.make("worldloom/PointRoom-v0", render_mode="rgb_array").unwrapped)
    check_env_specs(make_env("worldloom/PointRoom-v0"))


def test_the_straight_way_leads_to_every_goal_and_chance_to_few() -> None:
    chance = np.random.default_rng(0)
    assert successes(lambda env: np.clip((env.goal - env.position) / REACH, -1, 1), 50) == 50
    assert successes(lambda env: chance.uniform(-1, 1, 2), 200) <= 30


def test_walls_stop_the_point() -> None:
    env = PointRoom()
    env.reset(seed=0)
    for _ in range(10):
        env.step(np.array([1.0, -1.0], np.float32))
    assert env.position.tolist() == [1.0, -1.0]


def test_the_image_shows_the_place_within_a_tenth_of_a_pixel() -> None:
    for position in np.random.default_rng(0).uniform(-1, 1, (50, 2)):
        image = picture(position)[..., 0].astype(float)
        total, pixels = image.sum(), np.arange(16)
        seen = np.array([(image.sum(0) * pixels).sum(), (image.sum(1) * pixels).sum()]) / total
        assert np.abs(seen - (2 + (position + 1) / 2 * 11)).max() < 0.1


def test_it_is_made_in_torchrl_s_form_with_the_goal_beside_the_image() -> None:
    env = make_env("worldloom/PointRoom-v0", num_envs=2, seed=0)
    rollout = env.rollout(EPISODE_STEPS + 5, break_when_any_done=False)
    assert episode_length(env) == EPISODE_STEPS
    for key in ("pixels", ("goal", "pixels")):
        assert (rollout[key].shape, rollout[key].dtype) == ((2, EPISODE_STEPS + 5, 3, 16, 16), torch.uint8)
    goals = rollout["goal", "pixels"]
    assert torch.equal(goals[:, :1].expand(-1, EPISODE_STEPS, -1, -1, -1), goals[:, :EPISODE_STEPS])
    assert not torch.equal(goals[:, 0], goals[:, EPISODE_STEPS])
