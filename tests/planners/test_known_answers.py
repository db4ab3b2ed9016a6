"""Planners on problems whose best action is known or solved by scipy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from analytic_model import Analytic, plan_from, seeded
from scipy.linalg import solve_discrete_are
from scipy.optimize import lsq_linear
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Bounded, Composite, MultiOneHot, OneHot
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl.planners import (
    CEMPlanner,
    Coloured,
    GradientPlanner,
    ICEMPlanner,
    MPPIPlanner,
    PlanOptions,
    PredictiveSamplingPlanner,
    RandomShootingPlanner,
    soft_continue,
    sticky_cut,
)
from worldloom_rl.planners.plan import trajectory_value

# Predictive sampling makes one round a step, and its steps close in on the best plan: here all at one state.
CLOSING_IN = partial(PredictiveSamplingPlanner, iterations=40, min_std=0.05)
REFINING = partial(ICEMPlanner, iterations=8, num_samples=512, num_elites=32)
PLANNERS = pytest.mark.parametrize(
    "kind", [MPPIPlanner, CEMPlanner, CLOSING_IN, REFINING], ids=["mppi", "cem", "predictive", "icem"]
)
WITH_GRADIENT = pytest.mark.parametrize(
    "kind",
    [MPPIPlanner, CEMPlanner, CLOSING_IN, REFINING, partial(GradientPlanner, iterations=60)],
    ids=["mppi", "cem", "predictive", "icem", "gradient"],
)
RANGE = 2.0  # of a flat action, from −1 to 1


def unit_box(width: int) -> Bounded:
    return Bounded(-1.0, 1.0, shape=(width,), dtype=torch.float32)


# ---------------------------------------------------------------------- bandits


@WITH_GRADIENT
def test_the_best_arm_of_a_quadratic_bandit_is_found_within_5_percent_of_the_range(kind):
    target = torch.tensor([[0.3, -0.8], [-0.95, 0.0], [1.0, 0.5]])  # the state is the target: one bandit a row

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        return state, -(action - state).square().sum(-1, keepdim=True), 1.0

    planner = kind(Analytic(step, unit_box(2), width=2), horizon=1)
    action = plan_from(planner, target, seeded()).action
    assert (action - target).abs().max().item() < 0.05 * RANGE


@WITH_GRADIENT
def test_a_bandit_with_other_bounds_is_solved_in_the_environments_units(kind):
    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        force = 5 + 5 * action  # flat [-1, 1] is 0 … 10 newton
        return state, -(force - 7.0).square(), 1.0

    action_spec = Composite(arm=Composite(force=Bounded(0.0, 10.0, shape=(1,), dtype=torch.float32)))
    planner = kind(Analytic(step, action_spec), horizon=1, noise=seeded())
    td = TensorDict(
        {
            "latent": {"deterministic": torch.zeros(4, 1)},
            "is_init": torch.ones(4, 1, dtype=torch.bool),
        },
        [4],
    )
    for key, spec in planner.make_tensordict_primer().primers.items(True, True):
        td[key] = torch.zeros(4, *spec.shape)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        force = planner(td)["arm", "force"]
    assert force.shape == (4, 1)
    assert (force - 7.0).abs().max().item() < 0.05 * 10


@PLANNERS
def test_the_best_class_of_a_categorical_bandit_is_found(kind):
    pay = torch.tensor([0.0, 0.2, 1.0, 0.9, 0.3])

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        return state, (action * pay).sum(-1, keepdim=True), 1.0

    planner = kind(Analytic(step, OneHot(5)), horizon=1)
    plan = plan_from(planner, torch.zeros(8, 1), seeded())
    assert plan.action.tolist() == [[0.0, 0.0, 1.0, 0.0, 0.0]] * 8
    # All elites agree, so the refitted probabilities are the floor and what is left of it.
    torch.testing.assert_close(plan.mean[:, 0], torch.tensor([0.01, 0.01, 0.96, 0.01, 0.01]).expand(8, 5))


@PLANNERS
def test_a_sequence_of_classes_is_found_when_only_the_whole_sequence_pays(kind):
    lock = torch.tensor([2, 0, 1, 1])

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        time, right = state[..., :1], state[..., 1:]
        wanted = torch.nn.functional.one_hot(lock[time.long().clamp(max=3)].squeeze(-1), 3)
        right = right + (action * wanted).sum(-1, keepdim=True)
        return torch.cat([time + 1, right], -1), (right == 4).to(action.dtype), 1.0

    planner = kind(Analytic(step, OneHot(3), width=2), horizon=4, num_elites=8)  # 6 of 512 random sequences open it
    plan = plan_from(planner, torch.zeros(3, 2), seeded())
    assert plan.mean.argmax(-1).tolist() == [lock.tolist()] * 3


@PLANNERS
def test_several_categoricals_are_chosen_together(kind):
    pay = torch.tensor([[0.0, 0.5, 0.2], [1.0, 0.1, 0.0]])  # best is the pair (1, 0)

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        return state, torch.einsum("...i,ij,...j->...", action[..., :2], pay, action[..., 2:]).unsqueeze(-1), 1.0

    planner = kind(Analytic(step, MultiOneHot([2, 3])), horizon=1)
    action = plan_from(planner, torch.zeros(4, 1), seeded()).action
    assert action.tolist() == [[0.0, 1.0, 1.0, 0.0, 0.0]] * 4


@PLANNERS
def test_a_mixed_action_finds_the_best_class_and_the_best_number_for_it(kind):
    place, bonus = torch.tensor([-0.5, 0.2, 0.7]), torch.tensor([0.0, 1.0, 0.5])

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        number, gear = action[..., :1], action[..., 1:]
        error = number - (gear * place).sum(-1, keepdim=True)
        return state, (gear * bonus).sum(-1, keepdim=True) - 4 * error.square(), 1.0

    action_spec = Composite(a=unit_box(1), b=OneHot(3))
    planner = kind(Analytic(step, action_spec), horizon=1)
    action = plan_from(planner, torch.zeros(8, 1), seeded()).action
    assert action[:, 1:].tolist() == [[0.0, 1.0, 0.0]] * 8
    assert (action[:, 0] - 0.2).abs().max().item() < 0.05 * RANGE


# ---------------------------------------------------------------------- double integrator

DT = 0.3
A = np.array([[1.0, DT], [0.0, 1.0]])
B = np.array([[0.0], [DT]])
Q, R = np.diag([1.0, 0.1]), np.array([[0.05]])
STARTS = [[1.0, 0.0], [-0.3, 0.2], [3.0, 1.0]]  # the last one pushes at the bound


def integrator() -> Analytic:
    """Cost xᵀQx + aᵀRa of the state and action before the step."""
    matrix, gain = torch.tensor(A, dtype=torch.float32), torch.tensor(B, dtype=torch.float32)
    cost = torch.tensor(np.diag(Q), dtype=torch.float32)

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        reward = -(state.square() * cost).sum(-1, keepdim=True) - R.item() * action.square()
        return state @ matrix.T + action @ gain.T, reward, 1.0

    return Analytic(step, unit_box(1), width=2)


def residuals(start: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """M, c such that the cost of H actions a is |M a + c|²; terms of x₁ … x_{H−1} and of the actions."""
    rows, offsets = [], []
    state, effect = start.copy(), np.zeros((2, horizon))
    for t in range(horizon):
        rows += [np.sqrt(Q) @ effect, np.sqrt(R) @ np.eye(horizon)[t : t + 1]]
        offsets += [np.sqrt(Q) @ state, np.zeros(1)]
        push = np.zeros((1, horizon))
        push[0, t] = 1.0
        state, effect = A @ state, A @ effect + B @ push
    return np.concatenate(rows), np.concatenate(offsets)


SETTINGS: dict[Any, dict[str, float]] = {MPPIPlanner: {"temperature": 20.0}, CLOSING_IN: {"iterations": 100}}


@WITH_GRADIENT
def test_the_double_integrator_is_driven_within_5_percent_of_the_quadratic_programs_cost(kind):
    horizon = 8
    planner = kind(integrator(), horizon=horizon, **{"iterations": 12, "num_samples": 1024, **SETTINGS.get(kind, {})})
    plan = plan_from(planner, torch.tensor(STARTS), seeded())
    for row, start in enumerate(STARTS):
        matrix, offset = residuals(np.array(start), horizon)
        best = lsq_linear(matrix, -offset, bounds=(-1, 1))
        lowest = 2 * best.cost
        planned = plan.mean[row, :, 0].double().numpy()
        assert np.square(matrix @ planned + offset).sum() < 1.05 * lowest
        assert abs(plan.action[row, 0].item() - best.x[0]) < 0.05 * RANGE


@WITH_GRADIENT
def test_a_short_plan_with_the_exact_terminal_value_takes_the_infinite_horizon_action(kind):
    riccati = solve_discrete_are(A, B, Q, R)
    feedback = np.linalg.solve(R + B.T @ riccati @ B, B.T @ riccati @ A)
    matrix = torch.tensor(riccati, dtype=torch.float32)

    def terminal_value(latent: dict[str, Tensor], noise: object) -> Tensor:
        state = latent["deterministic"]
        return -((state @ matrix) * state).sum(-1, keepdim=True)

    states = torch.tensor([[0.2, 0.0], [-0.2, 0.1], [0.1, -0.3]])
    settings = {"iterations": 10, "num_samples": 1024, **SETTINGS.get(kind, {})}
    planner = kind(integrator(), horizon=3, terminal_value=terminal_value, **settings)
    action = plan_from(planner, states, seeded()).action
    expected = -states.double().numpy() @ feedback.T
    assert np.abs(expected).max() < 0.8  # the bounds play no part
    np.testing.assert_allclose(action.numpy(), expected, atol=0.05 * RANGE)


@PLANNERS
def test_the_policy_priors_sequence_is_executed_when_it_alone_finds_the_reward(kind):
    needle = torch.tensor([0.123, -0.456, 0.789])

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        hit = ((action - needle).abs() < 1e-4).all(-1, keepdim=True)
        return state, hit.to(action.dtype) * 100, 1.0

    def prior(latent: dict[str, Tensor], noise: object) -> Tensor:
        return needle.expand(*latent["deterministic"].shape[:-1], 3)

    planner = kind(
        Analytic(step, unit_box(3)), horizon=3, num_policy_trajectories=8, num_elites=8, policy_prior=prior, min_std=0.0
    )
    action = plan_from(planner, torch.zeros(2, 1), seeded()).action
    torch.testing.assert_close(action, needle.expand(2, 3), rtol=1e-4, atol=1e-4)


def test_a_value_without_gradient_and_discrete_actions_are_refused_by_the_gradient_planner():
    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        return state, (action.detach() > 0.5).to(action.dtype), 1.0

    with pytest.raises(ValueError, match="gradient of the value"):
        plan_from(GradientPlanner(Analytic(step, unit_box(1)), horizon=2), torch.zeros(1, 1), seeded())
    with pytest.raises(ValueError, match="take CEMPlanner for discrete ones"):
        GradientPlanner(Analytic(step, OneHot(3)))


def test_random_shooting_takes_the_best_of_uniform_sequences():
    planner = RandomShootingPlanner(integrator(), horizon=3, num_samples=400)
    warm = torch.full((3, 3, 1), 0.9)
    plan = plan_from(planner, torch.tensor(STARTS), seeded(), mean=warm)
    (round_,) = plan.iterations
    assert torch.equal(round_.actions, plan_from(planner, torch.tensor(STARTS), seeded()).iterations[0].actions)
    histogram = torch.histc(round_.actions, bins=4, min=-1, max=1)
    assert (histogram / histogram.sum() - 0.25).abs().max() < 0.02
    assert torch.equal(plan.mean[..., 0], round_.actions[:, range(3), round_.value.argmax(-1), 0].T)


@pytest.mark.parametrize("horizon", [1, 7, 8])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_coloured_deviations_have_unit_variance_and_the_spectrum_of_their_exponent(exponent: float, horizon: int):
    like = torch.zeros(1, dtype=torch.float64)
    drawn = Coloured(exponent)((horizon, 20_000), like, seeded())
    assert (drawn.var(1) - 1).abs().max() < 0.05
    power = torch.fft.rfft(drawn, dim=0).abs().square().mean(1)
    ratios = power[1:] / power[1:2]
    expected = torch.arange(1, len(power)).double() ** -exponent
    torch.testing.assert_close(ratios, expected, rtol=0.06, atol=0)
    if exponent == 0:
        assert torch.allclose(drawn, seeded().normal("sample", (horizon, 20_000), like))


# ---------------------------------------------------------------------- values of trajectories


def counting(continuation: list[float], gamma: float) -> Analytic:
    """The state is the time; arriving at t + 1 brings 2^t, and the episode goes on with continuation[t]."""
    table = torch.tensor(continuation)

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return state + 1, 2.0**state, table[state.long()]

    return Analytic(step, unit_box(1), gamma=gamma)


def value_of(
    continuation: list[float], rule: Callable[[Tensor, Tensor], Tensor] = soft_continue, terminal: float = 0.0
) -> float:

    def terminal_value(latent: dict[str, Tensor], noise: object) -> Tensor:
        return torch.full_like(latent["deterministic"], terminal)

    options = PlanOptions(terminal_value=terminal_value, termination=rule)
    latent, actions = {"deterministic": torch.zeros(2, 1)}, torch.zeros(3, 2, 4, 1)
    value = trajectory_value(counting(continuation, 0.5), latent, actions, options, seeded())
    assert value.shape == (2, 4)
    assert (value == value[0, 0]).all()
    return value[0, 0].item()


def test_without_termination_the_value_is_the_discounted_sum_of_the_hand_computed_table():
    assert value_of([1.0, 1.0, 1.0]) == 1 + 0.5 * 2 + 0.25 * 4
    assert value_of([1.0, 1.0, 1.0], terminal=8.0) == 3.0 + 0.125 * 8


def test_a_bonus_of_the_latent_before_a_step_and_its_action_is_added_to_the_reward():
    options = PlanOptions(bonus=lambda latent, action: 10 * latent["deterministic"] + action)
    latent, actions = {"deterministic": torch.zeros(2, 1)}, torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 2, 4, 1)
    value = trajectory_value(counting([1.0, 1.0, 1.0], 0.5), latent, actions, options, seeded())
    assert torch.equal(value, torch.full((2, 4), 3.0 + 0.5 * (10 + 1) + 0.25 * (20 + 2)))


def test_the_sticky_cut_counts_the_terminating_steps_reward_and_nothing_after_it():
    assert value_of([1.0, 0.4, 0.9], sticky_cut, terminal=8.0) == 1 + 0.5 * 2
    assert value_of([0.1, 1.0, 1.0], sticky_cut, terminal=8.0) == 1.0
    assert value_of([1.0, 1.0, 0.4], sticky_cut, terminal=8.0) == 3.0  # all rewards, no terminal value
    assert value_of([0.6, 0.5, 0.9], sticky_cut, terminal=8.0) == 4.0  # even odds do not cut, and nothing is scaled


def test_the_soft_product_weighs_later_steps_by_the_probability_of_getting_there():
    expected = 1 + 0.5 * 0.8 * 2 + 0.25 * 0.8 * 0.5 * 4 + 0.125 * 0.8 * 0.5 * 0.25 * 8
    assert value_of([0.8, 0.5, 0.25], terminal=8.0) == pytest.approx(expected, rel=1e-6)
