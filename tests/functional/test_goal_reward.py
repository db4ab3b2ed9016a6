"""Rewards of coming near a goal: their numbers by hand, and what adds up to what."""

from __future__ import annotations

import doctest
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from worldloom_rl.functional import goal_reward
from worldloom_rl.functional.goal_reward import (
    GoalReward,
    mean_absolute_distance,
    squared_distance,
)

TOKENS = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
GOAL = torch.tensor([[0.0, 2.0], [5.0, 4.0]])


@pytest.mark.parametrize(
    ("distance", "expected"),
    [(squared_distance, 1.0 + 4.0), (mean_absolute_distance, 3.0 / 4)],
)
def test_distances_of_two_tokens_match_the_hand_computed_numbers(distance, expected) -> None:
    assert distance(TOKENS, GOAL).tolist() == [expected]


def test_the_dense_reward_is_minus_the_distance_arrived_at() -> None:
    reward = GoalReward(squared_distance)({"tokens": GOAL, "goal": GOAL}, {"tokens": TOKENS, "goal": GOAL})
    assert reward.tolist() == [-5.0]


def path(steps: int, candidates: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    goal = torch.randn(1, 3, 4, generator=generator).expand(candidates, 3, 4)
    start = torch.randn(1, 3, 4, generator=generator).expand(candidates, 3, 4)
    rest = [torch.randn(candidates, 3, 4, generator=generator) for _ in range(steps)]
    return [{"tokens": tokens, "goal": goal} for tokens in (start, *rest)]


@pytest.mark.parametrize("distance", [squared_distance, mean_absolute_distance])
def test_terminal_rewards_add_up_to_what_the_path_came_nearer_and_rank_plans_by_where_they_end(distance) -> None:
    latents = path(steps=6, candidates=20)
    reward = GoalReward(distance, terminal=True)
    total = torch.stack([reward(before, after) for before, after in pairwise(latents)]).sum(0)
    end = distance(latents[-1]["tokens"], latents[-1]["goal"])
    torch.testing.assert_close(total, distance(latents[0]["tokens"], latents[0]["goal"]) - end, rtol=1e-5, atol=1e-5)
    assert torch.equal(total.squeeze(-1).argsort(descending=True), end.squeeze(-1).argsort())


def test_the_example_of_the_docstring_runs() -> None:
    failed, tried = doctest.testmod(goal_reward)
    assert (failed, tried > 0) == (0, True)
