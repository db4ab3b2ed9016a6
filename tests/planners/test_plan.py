"""The plan: refitting against numpy, values, what is executed, tasks with fewer actions, scales of reward."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from analytic_model import Analytic, plan_from, seeded
from problems import ACTING, ACTIONS, BOX, PLANNERS, SMALL, WIDTH, acting_state, pushed, quadratic, run, states
from scipy import stats
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded

from worldloom_rl import GeneratorNoise
from worldloom_rl.functional.goal_reward import GoalReward
from worldloom_rl.models.tdmpc2 import TDMPC2, make_planner
from worldloom_rl.planners import CEMPlanner, MPPIPlanner, PredictiveSamplingPlanner
from worldloom_rl.pretrained.registry import find_preset

# ---------------------------------------------------------------------- refitting, against numpy


WEIGHTS = {
    MPPIPlanner: lambda value: np.exp(0.5 * (value - value.max())),
    CEMPlanner: np.ones_like,
    PredictiveSamplingPlanner: lambda value: np.eye(len(value))[0],
}


@PLANNERS
def test_elites_are_the_best_samples_and_the_refit_is_numpys_weighted_mean_and_deviation(kind):
    planner = kind(quadratic(), horizon=3, num_samples=50, num_elites=7, iterations=3, min_std=0.05, max_std=0.9)
    for step in plan_from(planner, torch.randn(2, 2), seeded()).iterations:
        for row in range(2):
            value = step.value[row].double().numpy()
            best = np.argsort(-value)[:7]
            assert step.elite_index[row].tolist() == best.tolist()
            weight = WEIGHTS[kind](value[best])
            weight /= weight.sum()
            np.testing.assert_allclose(step.score[row].numpy(), weight, rtol=1e-4)
            elites = step.actions[:, row].double().numpy()[:, best]
            mean = np.average(elites, axis=1, weights=weight)
            deviation = np.sqrt(np.average(np.square(elites - mean[:, None]), axis=1, weights=weight))
            np.testing.assert_allclose(step.mean[:, row].numpy(), mean, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(step.std[:, row].numpy(), deviation.clip(0.05, 0.9), rtol=1e-4, atol=1e-6)


def test_cem_momentum_keeps_its_share_of_the_previous_distribution():
    plain, slow = (
        CEMPlanner(quadratic(), horizon=2, num_samples=50, num_elites=7, iterations=1, momentum=momentum, max_std=1.5)
        for momentum in (0.0, 0.25)
    )
    state = torch.zeros(1, 2)
    new, kept = (plan_from(planner, state, seeded()).iterations[0] for planner in (plain, slow))
    torch.testing.assert_close(kept.mean, 0.75 * new.mean)  # the first mean is zero
    torch.testing.assert_close(kept.std, 0.75 * new.std + 0.25 * 1.5)


@PLANNERS
def test_momenta_keep_their_share_of_the_old_mean_and_std_of_every_dimension(kind) -> None:
    momentum, momentum_std = torch.tensor([0.0, 0.15, 0.6]), torch.tensor([0.3, 0.0, 0.9])
    settings = {**SMALL, "iterations": 1}
    plain = kind(pushed(), **settings)
    slow = kind(pushed(), momentum=momentum.tolist(), momentum_std=momentum_std.tolist(), **settings)
    new, kept = (plan_from(planner, states(), seeded()).iterations[0] for planner in (plain, slow))
    torch.testing.assert_close(kept.mean, (1 - momentum) * new.mean)  # the old mean is 0, the old std max_std
    torch.testing.assert_close(kept.std, (1 - momentum_std) * new.std + momentum_std * plain.distribution.init_std)


def test_the_unbiased_std_divides_by_one_less() -> None:
    plan = plan_from(CEMPlanner(pushed(), unbiased_std=True, **SMALL), states(), seeded())
    for iteration in plan.iterations:
        elites = iteration.actions.take_along_dim(iteration.elite_index[None, :, :, None], 2)
        torch.testing.assert_close(iteration.std, elites.std(2), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(iteration.mean, elites.mean(2), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="unbiased_std needs at least 2 elites"):
        CEMPlanner(pushed(), unbiased_std=True, **{**SMALL, "num_elites": 1})


@PLANNERS
def test_refitted_probabilities_never_fall_below_the_floor_and_sum_to_one(kind):
    planner = kind(quadratic(OneHot(3)), horizon=3, num_samples=64, num_elites=4)
    mean = plan_from(planner, torch.randn(4, 2), seeded()).mean
    assert mean.min().item() >= 0.05 / 3 - 1e-6
    torch.testing.assert_close(mean.sum(-1), torch.ones(4, 3))


@PLANNERS
def test_kept_elites_stand_among_the_next_samples_and_the_best_is_never_lost(kind) -> None:
    plan = plan_from(kind(pushed(), keep_elites=2, **SMALL), states(), seeded())
    best = [iteration.value.amax(-1) for iteration in plan.iterations]
    for before, after in pairwise(plan.iterations):
        elites = before.actions.take_along_dim(before.elite_index[None, :, :2, None], 2)
        assert torch.equal(after.actions[:, :, :2], elites)
        assert after.actions.shape == before.actions.shape
    assert all((later >= earlier).all() for earlier, later in pairwise(best))


# ---------------------------------------------------------------------- what is executed


def test_mppi_executes_an_elite_with_the_probability_of_its_score():
    class SameSamples(GeneratorNoise):
        def normal(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
            one = torch.tensor([-0.4, -0.1, 0.2, 0.5]).reshape(1, 1, 4, 1)
            return one.expand(tuple(shape))

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        return state, 4 * action, 1.0

    planner = MPPIPlanner(
        Analytic(step, Bounded(-1.0, 1.0, shape=(1,), dtype=torch.float32)),
        horizon=1, iterations=1, num_samples=4, num_elites=3, max_std=1.0, temperature=0.5,
    )  # fmt: skip
    plan = plan_from(planner, torch.zeros(5000, 1), SameSamples(torch.Generator().manual_seed(1)))
    counts = [int((plan.action - elite).abs().lt(1e-6).sum()) for elite in (0.5, 0.2, -0.1)]
    weight = np.exp([1.0, 0.4, -0.2])
    assert stats.chisquare(counts, 5000 * weight / weight.sum()).pvalue > 0.01


def test_deterministic_mppi_executes_one_of_its_elites_and_cem_its_mean():
    for kind in (MPPIPlanner, CEMPlanner):
        planner = kind(quadratic(), horizon=3, num_samples=32, num_elites=4)
        plan = plan_from(planner, torch.zeros(3, 2), seeded())
        last = plan.iterations[-1]
        elites = last.actions[0].take_along_dim(last.elite_index.unsqueeze(-1), 1)
        if kind is MPPIPlanner:
            assert (elites == plan.action.unsqueeze(1)).all(-1).any(-1).all()
        else:
            torch.testing.assert_close(plan.action, elites.mean(1))


def test_predictive_sampling_executes_its_best_sequence_which_is_no_worse_than_the_warm_start():
    planner = PredictiveSamplingPlanner(quadratic(), horizon=3, num_samples=8)
    mean = torch.linspace(-0.5, 0.5, 120).reshape(20, 3, 2)
    plan = plan_from(planner, torch.linspace(-2, 2, 40).reshape(20, 2), seeded(), mean=mean)
    (round_,) = plan.iterations
    best = round_.value.argmax(-1)
    rows = torch.arange(20)
    assert torch.equal(plan.mean, round_.actions[:, rows, best].transpose(0, 1))
    assert torch.equal(plan.action, plan.mean[:, 0])
    started = planner.distribution.warm_start(mean)
    assert torch.equal(round_.actions[:, :, 0], started)
    assert (round_.value[rows, best] >= round_.value[:, 0]).all()
    deviation = (round_.actions[:, :, 1:] - started.unsqueeze(2)).square().mean().sqrt()
    assert deviation.item() == pytest.approx(0.3, abs=0.03)


@ACTIONS
@ACTING
def test_planned_actions_lie_in_the_action_spec(kind, action):
    planner = kind(quadratic(action, scale=-1.0), horizon=2, num_samples=64, num_elites=8)  # the best is at the bounds
    td = run(planner, acting_state(planner, [20]), seeded())
    for key in planner.model.action_keys:
        assert all(action[key].is_in(row) for row in td[key])


def test_action_dimensions_that_a_task_lacks_stay_zero():
    config = find_preset("tdmpc2:tiny")[1].__class__(
        **{**find_preset("tdmpc2:tiny")[1].to_json(), "action_dims": (1, 3), "task_dim": 4}
    )
    observation = Composite(observation=Unbounded((4,)), task=Categorical(2, shape=(), dtype=torch.int64))
    box = Composite(action=Bounded(-1.0, 1.0, shape=(3,), dtype=torch.float32))
    torch.manual_seed(0)
    model = TDMPC2(config, observation, box)
    latent = {"deterministic": torch.randn(2, 64).softmax(-1), "task": torch.tensor([0, 1])}
    plan = make_planner(model).plan(latent, torch.rand(2, 3, 3), seeded(), explore=True)
    assert (plan.action != 0).tolist() == [[True, False, False], [True, True, True]]
    assert (plan.mean[0, :, 1:] == 0).all()


# ---------------------------------------------------------------------- values, scales of reward


@PLANNERS
def test_another_reward_takes_the_predicted_one_s_place(kind) -> None:
    goal = torch.tensor([0.4, -0.4, 0.0])

    def near(before: dict[str, Tensor], after: dict[str, Tensor]) -> Tensor:
        return GoalReward()(
            {"tokens": before["deterministic"].unsqueeze(-2), "goal": goal},
            {"tokens": after["deterministic"].unsqueeze(-2), "goal": goal},
        )

    planner = kind(pushed(), reward=near, **SMALL)
    plan = plan_from(planner, states(), seeded())
    actions = plan.iterations[0].actions
    state, total = states().unsqueeze(1).expand(2, 16, WIDTH), torch.zeros(2, 16)
    for action in actions:
        state = 0.9 * state + 0.3 * action
        total = total - (state - goal).square().sum(-1)
    torch.testing.assert_close(plan.iterations[0].value, total, rtol=1e-5, atol=1e-5)


def doubled(planner: Any, state: Tensor, noise: Any) -> Any:
    mean = torch.zeros(len(state), planner.horizon, 2, dtype=torch.float64)
    return plan_from(planner, state.double(), noise, mean=mean)


STATES = torch.tensor([[0.3, 0.0], [-1.0, 0.5]])


@pytest.mark.parametrize(
    ("scale", "shift"), [(1e-3, 0.0), (1e2, 0.0), (1e4, 0.0), (1.0, 1e3), (1.0, -1e3), (1e4, -1e3)]
)
@PLANNERS
def test_scaled_and_shifted_rewards_give_the_same_order_of_sequences_and_no_nan(kind, scale, shift):
    plain, changed = (
        doubled(kind(quadratic(scale=s, shift=d), horizon=3, num_samples=128, num_elites=16), STATES, seeded())
        for s, d in ((1.0, 0.0), (scale, shift))
    )
    assert changed.action.isfinite().all()
    assert changed.mean.isfinite().all()
    assert all(step.std.isfinite().all() for step in changed.iterations)
    assert torch.equal(changed.iterations[0].elite_index, plain.iterations[0].elite_index)
    if kind is not MPPIPlanner or scale == 1.0:  # MPPI's temperature is in units of the reward
        torch.testing.assert_close(changed.action, plain.action, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e2, 1e4])
def test_mppi_with_a_temperature_in_the_rewards_unit_takes_the_same_action(scale):
    plain, changed = (
        doubled(
            MPPIPlanner(quadratic(scale=s), horizon=3, num_samples=128, num_elites=16, temperature=0.5 / s),
            STATES,
            seeded(),
        )
        for s in (1.0, scale)
    )
    torch.testing.assert_close(changed.action, plain.action, rtol=0, atol=1e-8)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@PLANNERS
def test_a_model_that_diverges_for_some_actions_still_gets_a_finite_plan(kind, bad):
    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        return state, torch.where(action[..., :1] > 0.5, bad, action[..., :1]), 1.0

    planner = kind(Analytic(step, BOX), horizon=2, num_samples=64, num_elites=32)
    plan = plan_from(planner, torch.zeros(2, 1), seeded())
    assert plan.action.isfinite().all()
    assert plan.mean.isfinite().all()
