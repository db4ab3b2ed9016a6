"""Recall: only the cue of the first image tells which actions are right twelve steps later."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from worldloom_rl.envs import make_env
from worldloom_rl.envs.recall import DELAY, EPISODE_STEPS, QUESTIONS, Recall


def episode(env: Recall, seed: int, action: int | None) -> tuple[list[np.ndarray], list[float]]:
    """Images and rewards of an episode in which one action is always taken, the cue's side if it is None."""
    image, _ = env.reset(seed=seed)
    images, rewards, ended = [image], [], False
    while not ended:
        image, reward, terminated, ended, _ = env.step(np.int64(env.cue if action is None else action))
        assert not terminated
        images.append(image)
        rewards.append(reward)
    return images, rewards


def test_gymnasiums_own_check_passes() -> None:
    check_env(gymnasium.make("worldloom/Recall-v0", render_mode="rgb_array").unwrapped)


def test_who_remembers_gets_three_and_who_always_does_the_same_gets_nothing_on_average() -> None:
    env = Recall()
    assert {sum(episode(env, seed, None)[1]) for seed in range(20)} == {float(QUESTIONS)}
    for action in (0, 1):
        same = [sum(episode(env, seed, action)[1]) for seed in range(200)]
        assert set(same) == {3.0, -3.0}
        assert abs(np.mean(same)) < 0.6  # two and a half standard errors around 0


def test_only_the_first_image_tells_the_cue_and_only_actions_after_the_delay_count() -> None:
    env, first = Recall(), {}
    for seed in range(10):
        images, rewards = episode(env, seed, None)
        assert len(rewards) == EPISODE_STEPS == 15
        assert np.flatnonzero(rewards).tolist() == [DELAY, DELAY + 1, DELAY + 2]
        first[env.cue] = images
    assert not np.array_equal(first[0][0], first[1][0])
    for left, right in zip(first[0][1:], first[1][1:], strict=True):
        assert np.array_equal(left, right)


def test_make_env_truncates_after_fifteen_steps() -> None:
    rollout = make_env("worldloom/Recall-v0", seed=0).rollout(40, break_when_any_done=False)
    ends = torch.nonzero(rollout["next", "truncated"].reshape(-1)).reshape(-1)
    assert ends.tolist() == [14, 29]
    assert not rollout["next", "terminated"].any()


def test_another_render_mode_is_refused() -> None:
    with pytest.raises(ValueError, match='"rgb_array" only'):
        Recall(render_mode="human")
