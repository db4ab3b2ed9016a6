"""What every planner keeps to: batches, warm starts, seeds, scales of reward, exploration, and its errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from analytic_model import Analytic, RecordingNoise, plan_from, seeded
from scipy import stats
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, OneHot, TensorSpec, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl import CEMPlanner, GeneratorNoise, ModeNoise, MPPIPlanner, ReplayNoise
from worldloom_rl.models.tdmpc2 import TDMPC2, make_planner
from worldloom_rl.pretrained.registry import find_preset

PLANNERS = pytest.mark.parametrize("kind", [MPPIPlanner, CEMPlanner])
BOX = Bounded(-1.0, 1.0, shape=(2,), dtype=torch.float32)
ACTIONS = pytest.mark.parametrize(
    "action",
    [
        Composite(action=BOX),
        Composite(action=OneHot(3)),
        Composite(a=BOX, b=Categorical(3, shape=(), dtype=torch.int64)),
    ],
    ids=["continuous", "discrete", "mixed"],
)


def quadratic(action: TensorSpec = BOX, scale: float = 1.0, shift: float = 0.0) -> Analytic:
    """Reward −|a − tanh(state)|², scaled and shifted; the state drifts with the action."""

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        error = action - torch.tanh(state[..., :1] + torch.arange(action.shape[-1]))
        return (
            0.9 * state + 0.3 * action.sum(-1, keepdim=True),
            shift - scale * error.square().sum(-1, keepdim=True),
            1.0,
        )

    return Analytic(step, action, width=2, gamma=0.9)


def tdmpc2(action: Composite) -> TDMPC2:
    torch.manual_seed(0)
    model = TDMPC2(find_preset("tdmpc2:tiny")[1], Composite(observation=Unbounded((4,))), action)
    with torch.no_grad():  # fresh reward and Q layers are zero
        for name, parameter in model.named_parameters():
            if "reward_head" in name or "q_ensemble" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def acting_state(planner: MPPIPlanner | CEMPlanner, batch: Sequence[int], seed: int = 0) -> TensorDict:
    """A tensordict as an environment hands it to the planner, in the middle of an episode."""
    model, generator = planner.model, torch.Generator().manual_seed(seed)
    td = TensorDict({}, batch)
    for name, leaf in model.latent_spec.items():
        td[model.key_map.leaf(name)] = torch.randn(*batch, *leaf.shape, generator=generator).softmax(-1)
    mean = torch.rand(*batch, planner.horizon, model.action_space.width, generator=generator) - 0.5
    for start, stop in model.action_space.groups:
        mean[..., start:stop] = (5 * mean[..., start:stop]).softmax(-1)
    td["planner", "mean"] = mean
    td["is_init"] = torch.zeros(*batch, 1, dtype=torch.bool)
    return td


def run(planner: Any, td: TensorDict, noise: Any, exploration: ExplorationType = ExplorationType.RANDOM) -> TensorDict:
    planner.noise = noise
    with set_exploration_type(exploration):
        return planner(td.clone())


# ---------------------------------------------------------------------- batches


@ACTIONS
@pytest.mark.parametrize("exploration", [ExplorationType.RANDOM, ExplorationType.DETERMINISTIC])
def test_tdmpc2_plans_a_batch_as_it_plans_each_environment_alone(action, exploration):
    planner = make_planner(tdmpc2(action))
    td = acting_state(planner, [3])
    noise = RecordingNoise(seeded())
    together = run(planner, td, noise, exploration)
    for row in range(3):
        replay = ReplayNoise(noise.of_row(row))
        alone = run(planner, td[row : row + 1], replay, exploration)
        assert replay.unused() == {}
        for key in (*planner.model.action_keys, ("planner", "mean")):
            torch.testing.assert_close(alone[key], together[row : row + 1][key], rtol=0, atol=1e-5)


@PLANNERS
@ACTIONS
def test_a_planner_plans_a_batch_as_it_plans_each_environment_alone(kind, action):
    planner = kind(quadratic(action), horizon=4, num_samples=64, num_elites=8)
    td, noise = acting_state(planner, [3]), RecordingNoise(seeded())
    together = run(planner, td, noise)
    for row in range(3):
        alone = run(planner, td[row : row + 1], ReplayNoise(noise.of_row(row)))
        for key in (*planner.model.action_keys, ("planner", "mean")):
            torch.testing.assert_close(alone[key], together[row : row + 1][key], rtol=0, atol=1e-5)


@PLANNERS
@pytest.mark.parametrize("batch", [[], [1], [6], [2, 3]], ids=str)
def test_any_batch_shape_gives_the_same_as_the_flat_one(kind, batch):
    planner = kind(quadratic(), horizon=3, num_samples=32, num_elites=4)
    count = int(np.prod(batch, dtype=int))
    flat = acting_state(planner, [count])
    shaped = flat.reshape(batch)
    expected, got = run(planner, flat, seeded()), run(planner, shaped, seeded())
    assert got.batch_size == torch.Size(batch)
    assert torch.equal(got["action"].reshape(count, 2), expected["action"])
    assert got["planner", "mean"].shape == (*batch, 3, 2)
    assert torch.equal(got["next", "planner", "mean"], got["planner", "mean"])


# ---------------------------------------------------------------------- warm start


@PLANNERS
@ACTIONS
def test_the_warm_start_is_forgotten_exactly_where_is_init_is_set(kind, action):
    planner = kind(quadratic(action), horizon=4, num_samples=32, num_elites=4, iterations=2)
    td = acting_state(planner, [3])
    reset = td.clone()
    reset["is_init"][1] = True
    zeroed = td.clone()
    zeroed["planner", "mean"][1] = 0.0
    expected, got, kept = (run(planner, each, seeded())["planner", "mean"] for each in (zeroed, reset, td))
    assert torch.equal(got, expected)
    assert torch.equal(got[[0, 2]], kept[[0, 2]])
    assert not torch.equal(got[1], kept[1])


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


def test_the_primer_gives_each_environment_zeros_of_the_plans_shape():
    planner = MPPIPlanner(quadratic(), horizon=4)
    spec = planner.make_tensordict_primer().primers
    assert spec["planner", "mean"].shape == (4, 2)
    assert planner.out_keys == ["action", ("planner", "mean"), ("next", "planner", "mean")]
    assert set(planner.in_keys) == {("latent", "deterministic"), "is_init", ("planner", "mean")}


# ---------------------------------------------------------------------- refitting, against numpy


@PLANNERS
def test_elites_are_the_best_samples_and_the_refit_is_numpys_weighted_mean_and_deviation(kind):
    planner = kind(quadratic(), horizon=3, num_samples=50, num_elites=7, iterations=3, min_std=0.05, max_std=0.9)
    for step in plan_from(planner, torch.randn(2, 2), seeded()).iterations:
        for row in range(2):
            value = step.value[row].double().numpy()
            best = np.argsort(-value)[:7]
            assert step.elite_index[row].tolist() == best.tolist()
            weight = np.ones(7) if kind is CEMPlanner else np.exp(0.5 * value[best] - 0.5 * value[best].max())
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


@PLANNERS
def test_refitted_probabilities_never_fall_below_the_floor_and_sum_to_one(kind):
    planner = kind(quadratic(OneHot(3)), horizon=3, num_samples=64, num_elites=4)
    mean = plan_from(planner, torch.randn(4, 2), seeded()).mean
    assert mean.min().item() >= 0.05 / 3 - 1e-6
    torch.testing.assert_close(mean.sum(-1), torch.ones(4, 3))


@ACTIONS
@PLANNERS
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


# ---------------------------------------------------------------------- scales of reward


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
    if kind is CEMPlanner or scale == 1.0:  # MPPI's temperature is in units of the reward
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


# ---------------------------------------------------------------------- exploration


@ACTIONS
@PLANNERS
def test_deterministic_planning_repeats_under_a_seed_and_draws_no_action_noise(kind, action):
    planner = kind(quadratic(action), horizon=3, num_samples=32, num_elites=4)
    td, noise = acting_state(planner, [3]), RecordingNoise(seeded())
    first = run(planner, td, noise, ExplorationType.DETERMINISTIC)
    second = run(planner, td, seeded(), ExplorationType.DETERMINISTIC)
    assert all(torch.equal(first[key], second[key]) for key in planner.model.action_keys)
    assert set(noise.draws) == ({"sample"} if kind is CEMPlanner else {"sample", "elite"})


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


@pytest.mark.parametrize("exploration", [ExplorationType.MODE, ExplorationType.MEAN])
def test_every_exploration_type_but_random_plans_without_action_noise(exploration):
    planner = CEMPlanner(quadratic(), horizon=3, num_samples=32, num_elites=4)
    td = acting_state(planner, [3])
    expected = run(planner, td, seeded(), ExplorationType.DETERMINISTIC)["action"]
    assert torch.equal(run(planner, td, seeded(), exploration)["action"], expected)


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


def test_planning_leaves_gradients_off_and_the_carried_state_in_place():
    planner = make_planner(tdmpc2(Composite(action=BOX)))
    td = run(planner, acting_state(planner, [2]), seeded())
    assert not td["action"].requires_grad
    assert td["planner", "mean"].shape == (2, 3, 2)


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"num_elites": 513}, "num_elites 513 must be between 1 and num_samples 512"),
        ({"num_elites": 0}, "num_elites 0 must be between 1 and num_samples 512"),
        ({"num_policy_trajectories": 513}, "num_policy_trajectories 513 must be between 0 and num_samples 512"),
        ({"num_policy_trajectories": 24}, "needs a policy_prior; give one, or set it to 0"),
        ({"min_std": 3.0}, "0 <= min_std <= max_std, got 3.0 and 2.0"),
        ({"min_std": -0.1}, "0 <= min_std <= max_std"),
        ({"floor": 1.5}, r"floor is a share of probability mass in \[0, 1\], got 1.5"),
    ],
)
@PLANNERS
def test_impossible_numbers_stop_at_construction_and_are_named(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(quadratic(), **arguments)


def test_mppi_refuses_a_negative_temperature_and_weighs_all_elites_the_same_at_zero():
    with pytest.raises(ValueError, match="temperature must not be negative"):
        MPPIPlanner(quadratic(), temperature=-1.0)
    planner = MPPIPlanner(quadratic(), horizon=2, num_samples=8, num_elites=4, temperature=0.0)
    plan = plan_from(planner, torch.zeros(1, 2), seeded())
    assert plan.iterations[0].score.tolist() == [[0.25] * 4]


def test_cem_momentum_is_a_share_below_one():
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.0"):
        CEMPlanner(quadratic(), momentum=1.0)


@pytest.mark.parametrize("key", [("planner", "mean"), "is_init"])
def test_a_missing_planner_state_says_which_transforms_bring_it(key):
    planner = MPPIPlanner(quadratic(), horizon=3, num_samples=8, num_elites=2)
    td = acting_state(planner, [2]).exclude(key)
    with pytest.raises(KeyError) as caught:
        planner(td)
    for word in ("planner", "is_init", "latent", "auto_register_policy_transforms=True", "make_tensordict_primer"):
        assert word in str(caught.value)


def test_a_missing_latent_is_named_with_what_is_there():
    planner = MPPIPlanner(quadratic(), horizon=3, num_samples=8, num_elites=2)
    with pytest.raises(
        KeyError, match=r"Analytic needs the key .*latent.*deterministic.*but the tensordict holds.*is_init"
    ):
        planner(acting_state(planner, [2]).exclude("latent"))


def test_a_warm_start_of_another_horizon_is_refused_with_both_shapes():
    planner = MPPIPlanner(quadratic(), horizon=3, num_samples=8, num_elites=2)
    td = acting_state(planner, [2])
    td["planner", "mean"] = torch.zeros(2, 5, 2)
    with pytest.raises(ValueError, match=r"warm start .* has shape \(2, 5, 2\), but .*\(2, 3, 2\)"):
        planner(td)
