"""Door: the way to the goal exists, chance does not find it, and nothing but arriving is rewarded."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium.utils.env_checker import check_env
from torchrl.envs.utils import check_env_specs

from worldloom_rl.envs import episode_length, make_env
from worldloom_rl.envs.door import EPISODE_STEPS, GOAL, Door, is_free, place_of

RIGHT, LEFT, UP, DOWN = range(4)
SHORTEST = [UP] * 3 + [RIGHT] * 14 + [UP] * 3


def test_gymnasium_finds_nothing_to_complain_about() -> None:
    check_env(gymnasium.make("worldloom/Door-v0", render_mode="rgb_array").unwrapped)
    check_env_specs(make_env("worldloom/Door-v0"))


def test_the_shortest_way_alone_is_rewarded_at_its_end_where_the_episode_ends() -> None:
    env = Door()
    env.reset(seed=0)
    told = [env.step(np.int64(action)) for action in SHORTEST]
    assert [reward for _, reward, *_ in told] == [0.0] * 19 + [1.0]
    assert [terminated for _, _, terminated, *_ in told] == [False] * 19 + [True]
    assert told[-1][4] == {"success": True}
    assert told[-1][0].tolist() == [1.0, 1.0] == place_of(*GOAL).tolist()


def test_chance_succeeds_in_less_than_two_of_a_hundred_episodes_and_is_truncated() -> None:
    chance, env, successes = np.random.default_rng(0), Door(), 0
    for _ in range(1000):
        env.reset()
        for action in chance.integers(4, size=EPISODE_STEPS):
            _, reward, terminated, truncated, info = env.step(action)
            if terminated:
                break
        assert truncated != terminated == info["success"] == bool(reward)
        successes += terminated
    assert successes < 20  # 0.03 % are expected


def test_the_wall_has_one_door() -> None:
    assert [row for row in range(7) if is_free(7, row)] == [3]
    env = Door()
    env.reset()
    for action in [RIGHT] * 20 + [DOWN]:
        env.step(np.int64(action))
    assert env.cell == (6, 0)


def test_it_is_drawn_with_the_goal_at_the_upper_right() -> None:
    env = Door("rgb_array")
    env.reset()
    image = env.render()
    assert image.shape == (56, 120, 3)
    assert len({tuple(image[row, column]) for row, column in ((0, -1), (-1, 0), (0, 60), (0, 0))}) == 4


def test_it_is_made_in_torchrl_s_form() -> None:
    env = make_env("worldloom/Door-v0", num_envs=2, seed=0)
    assert episode_length(env) == EPISODE_STEPS
    assert env.rollout(3)["observation"].dtype == torch.float32
