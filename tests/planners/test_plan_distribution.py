"""The distribution of sequences: fresh and warm starts, samples and their bounds, exploration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analytic_model import Analytic, RecordingNoise, plan_from, seeded
from problems import PLANNERS, SMALL, WIDTH, pushed, quadratic, states
from scipy import stats
from torch import Tensor
from torchrl.data import OneHot

from worldloom_rl import ModeNoise, ReplayNoise
from worldloom_rl.planners import CEMPlanner

# ---------------------------------------------------------------------- starts


@PLANNERS
def test_the_previous_mean_is_moved_one_step_ahead_and_its_last_row_starts_at_zero(kind):
    planner = kind(quadratic(), horizon=4, num_samples=4, num_elites=2, iterations=1)
    previous = torch.arange(16.0).reshape(2, 4, 2) / 20
    plan = plan_from(planner, torch.zeros(2, 2), ModeNoise(), mean=previous)  # with zero noise a sample is the mean
    started = plan.iterations[0].actions[:, :, 0].transpose(0, 1)
    assert torch.equal(started[:, :3], previous[:, 1:])
    assert started[:, 3].abs().max() == 0


@PLANNERS
def test_the_previous_probabilities_are_moved_one_step_ahead_and_the_last_row_starts_uniform(kind):
    planner = kind(quadratic(OneHot(4)), horizon=3, num_samples=4000, num_elites=2, iterations=1)
    previous = torch.tensor([[[0.25] * 4, [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]])
    plan = plan_from(planner, torch.zeros(1, 2), seeded(), mean=previous)
    counts = plan.iterations[0].actions[:, 0].sum(1).numpy()
    expected = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25] * 4])
    for drawn, probabilities in zip(counts, expected, strict=True):
        assert stats.chisquare(drawn, 4000 * probabilities).pvalue > 0.01


@PLANNERS
def test_without_a_warm_start_categoricals_start_uniform(kind):
    planner = kind(quadratic(OneHot(4)), horizon=1, num_samples=4000, num_elites=2, iterations=1)
    counts = plan_from(planner, torch.zeros(1, 2), seeded()).iterations[0].actions.sum((0, 1, 2))
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


@PLANNERS
def test_without_a_warm_start_the_previous_plan_does_not_matter(kind) -> None:
    planner = kind(pushed(), warm_start=False, init_mean=0.25, **SMALL)
    mean = torch.rand(2, 4, WIDTH)
    assert torch.equal(planner.distribution.warm_start(mean), torch.full((4, 2, WIDTH), 0.25))
    one, other = (plan_from(planner, states(), seeded(), mean=start) for start in (mean, torch.zeros_like(mean)))
    assert torch.equal(one.action, other.action)


@pytest.mark.parametrize("execute", [1, 3, 4])
def test_a_warm_start_is_moved_by_what_was_executed_and_fresh_at_its_end(execute) -> None:
    planner = CEMPlanner(pushed(), init_mean=0.25, execute=execute, **SMALL)
    mean = torch.rand(2, 4, WIDTH)
    start = planner.distribution.warm_start(mean)
    assert torch.equal(start[: 4 - execute], mean.transpose(0, 1)[execute:])
    assert torch.equal(start[4 - execute :], torch.full((execute, 2, WIDTH), 0.25))


# ---------------------------------------------------------------------- samples


@PLANNERS
def test_a_fresh_start_has_the_given_mean_and_std_of_every_dimension(kind) -> None:
    mean, std = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.5, 0.0, 1.0])
    planner = kind(pushed(), init_mean=mean.tolist(), init_std=std.tolist(), clip=False, include_mean=False, **SMALL)
    noise = RecordingNoise(seeded())
    plan = plan_from(planner, states(), noise, mean=mean.expand(2, 4, WIDTH))
    draws = noise.draws["sample"][0]
    torch.testing.assert_close(plan.iterations[0].actions, mean + std * draws)
    # A dimension of std 0 stays where it is in every iteration.
    for iteration in plan.iterations:
        torch.testing.assert_close(iteration.actions[..., 1], mean[1].expand(4, 2, 16), rtol=0, atol=1e-6)
        assert (iteration.std[..., 1] == 0).all()


@PLANNERS
def test_samples_are_cut_at_the_bounds_of_their_dimension_unless_told_not_to(kind) -> None:
    bounds = {"low": [-0.1, -1.0, 0.0], "high": [0.2, 1.0, 0.5]}
    low, high = (torch.tensor(bound) for bound in bounds.values())
    cut = plan_from(kind(pushed(), **bounds, **SMALL), states(), seeded()).iterations[0].actions
    free = plan_from(kind(pushed(), **bounds, clip=False, **SMALL), states(), seeded()).iterations[0].actions
    assert ((cut >= low) & (cut <= high)).all()
    assert torch.equal(free.clamp(low, high), cut)
    assert not torch.equal(free, cut)


@PLANNERS
def test_one_sample_is_the_mean_if_asked_for(kind) -> None:
    plan = plan_from(kind(pushed(), include_mean=True, **SMALL), states(), seeded())
    before = torch.zeros(4, 2, WIDTH)
    for iteration in plan.iterations:
        assert torch.equal(iteration.actions[:, :, 0], before)
        before = iteration.mean


def test_the_included_mean_of_a_categorical_is_its_likeliest_class() -> None:
    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        return state, action[..., :1], 1.0

    planner = CEMPlanner(Analytic(step, OneHot(3)), include_mean=True, **SMALL)
    plan = plan_from(planner, torch.zeros(2, 1), seeded())
    assert torch.equal(plan.iterations[2].actions[:, :, 0].argmax(-1), plan.iterations[1].mean.argmax(-1))
    assert (plan.iterations[2].actions.sum(-1) == 1).all()


def test_draws_of_a_given_source_are_used() -> None:
    draws = [torch.randn(4, 2, 16, WIDTH) for _ in range(3)]
    noise = ReplayNoise({"sample": draws})
    plan = plan_from(CEMPlanner(pushed(), init_std=0.5, **SMALL), states(), noise)
    assert noise.unused() == {}
    torch.testing.assert_close(plan.iterations[0].actions, (0.5 * draws[0]).clamp(-1, 1))


# ---------------------------------------------------------------------- exploration


@PLANNERS
def test_random_exploration_adds_the_final_deviation_times_normal_noise(kind):
    planner = kind(quadratic(), horizon=3, num_samples=32, num_elites=4, min_std=0.1, max_std=0.5)
    noise = RecordingNoise(seeded())
    explored = plan_from(planner, torch.zeros(50, 2), noise, explore=True)
    plain = plan_from(planner, torch.zeros(50, 2), seeded())
    (epsilon,) = noise.draws["explore"]
    std = explored.iterations[-1].std[0]
    assert (std >= 0.1).all()
    torch.testing.assert_close(explored.action, (plain.action + std * epsilon).clamp(-1, 1))
    assert not torch.equal(explored.action, plain.action)


def test_random_exploration_of_classes_follows_the_refitted_probabilities():
    pay = torch.tensor([0.0, 1.0, 0.2])

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        return state, (action * pay).sum(-1, keepdim=True), 1.0

    planner = CEMPlanner(Analytic(step, OneHot(3)), horizon=1, num_samples=32, num_elites=2, iterations=2, floor=0.3)
    plan = plan_from(planner, torch.zeros(5000, 1), seeded(), explore=True)
    assert stats.chisquare(plan.action.sum(0).numpy(), [500, 4000, 500]).pvalue > 0.01
