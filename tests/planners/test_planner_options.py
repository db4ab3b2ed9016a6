"""Options of sampling planners: per-dimension starts and bounds, momenta, kept elites, whole plans, other rewards."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from analytic_model import Analytic, RecordingNoise, plan_from, seeded
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Bounded, OneHot

from worldloom_rl import CEMPlanner, MPPIPlanner, ReplayNoise
from worldloom_rl.functional.goal_reward import GoalReward
from worldloom_rl.keys import PLANNER_LEFT, PLANNER_MEAN, PLANNER_SEQUENCE
from worldloom_rl.planners.base import SamplingPlanner

PLANNERS = pytest.mark.parametrize("kind", [MPPIPlanner, CEMPlanner])
SMALL: dict[str, Any] = {"horizon": 4, "iterations": 3, "num_samples": 16, "num_elites": 4, "min_std": 0.0}
WIDTH = 3


def model() -> Analytic:
    """The state is pushed by the action towards a place of its own for every dimension."""

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, float]:
        moved = 0.9 * state + 0.3 * action
        return moved, -(moved - torch.linspace(-0.5, 0.5, WIDTH)).square().sum(-1, keepdim=True), 1.0

    return Analytic(step, Bounded(-1.0, 1.0, shape=(WIDTH,), dtype=torch.float32), width=WIDTH)


def states(batch: int = 2) -> Tensor:
    return torch.randn(batch, WIDTH, generator=torch.Generator().manual_seed(3))


@PLANNERS
def test_a_fresh_start_has_the_given_mean_and_std_of_every_dimension(kind) -> None:
    mean, std = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.5, 0.0, 1.0])
    planner = kind(model(), init_mean=mean.tolist(), init_std=std.tolist(), clip=False, **SMALL)
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
    cut = plan_from(kind(model(), **bounds, **SMALL), states(), seeded()).iterations[0].actions
    free = plan_from(kind(model(), **bounds, clip=False, **SMALL), states(), seeded()).iterations[0].actions
    assert ((cut >= low) & (cut <= high)).all()
    assert torch.equal(free.clamp(low, high), cut)
    assert not torch.equal(free, cut)


@PLANNERS
def test_momenta_keep_their_share_of_the_old_mean_and_std_of_every_dimension(kind) -> None:
    momentum, momentum_std = torch.tensor([0.0, 0.15, 0.6]), torch.tensor([0.3, 0.0, 0.9])
    settings = {**SMALL, "iterations": 1}
    plain = kind(model(), **settings)
    slow = kind(model(), momentum=momentum.tolist(), momentum_std=momentum_std.tolist(), **settings)
    new, kept = (plan_from(planner, states(), seeded()).iterations[0] for planner in (plain, slow))
    torch.testing.assert_close(kept.mean, (1 - momentum) * new.mean)  # the old mean is 0, the old std max_std
    torch.testing.assert_close(kept.std, (1 - momentum_std) * new.std + momentum_std * plain.max_std)


def test_the_unbiased_std_divides_by_one_less() -> None:
    plan = plan_from(CEMPlanner(model(), unbiased_std=True, **SMALL), states(), seeded())
    for iteration in plan.iterations:
        elites = iteration.actions.take_along_dim(iteration.elite_index[None, :, :, None], 2)
        torch.testing.assert_close(iteration.std, elites.std(2), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(iteration.mean, elites.mean(2), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="unbiased_std needs at least 2 elites"):
        CEMPlanner(model(), unbiased_std=True, **{**SMALL, "num_elites": 1})


@PLANNERS
def test_one_sample_is_the_mean_if_asked_for(kind) -> None:
    plan = plan_from(kind(model(), include_mean=True, **SMALL), states(), seeded())
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


@PLANNERS
def test_kept_elites_stand_among_the_next_samples_and_the_best_is_never_lost(kind) -> None:
    plan = plan_from(kind(model(), keep_elites=2, **SMALL), states(), seeded())
    best = [iteration.value.amax(-1) for iteration in plan.iterations]
    for before, after in pairwise(plan.iterations):
        elites = before.actions.take_along_dim(before.elite_index[None, :, :2, None], 2)
        assert torch.equal(after.actions[:, :, :2], elites)
        assert after.actions.shape == before.actions.shape
    assert all((later >= earlier).all() for earlier, later in pairwise(best))


@PLANNERS
def test_another_reward_takes_the_predicted_one_s_place(kind) -> None:
    goal = torch.tensor([0.4, -0.4, 0.0])

    def near(before: dict[str, Tensor], after: dict[str, Tensor]) -> Tensor:
        return GoalReward()(
            {"tokens": before["deterministic"].unsqueeze(-2), "goal": goal},
            {"tokens": after["deterministic"].unsqueeze(-2), "goal": goal},
        )

    planner = kind(model(), reward=near, **SMALL)
    plan = plan_from(planner, states(), seeded())
    actions = plan.iterations[0].actions
    state, total = states().unsqueeze(1).expand(2, 16, WIDTH), torch.zeros(2, 16)
    for action in actions:
        state = 0.9 * state + 0.3 * action
        total = total - (state - goal).square().sum(-1)
    torch.testing.assert_close(plan.iterations[0].value, total, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------- warm starts, whole plans


@PLANNERS
def test_without_a_warm_start_the_previous_plan_does_not_matter(kind) -> None:
    planner = kind(model(), warm_start=False, init_mean=0.25, **SMALL)
    mean = torch.rand(2, 4, WIDTH)
    assert torch.equal(planner.warm_start(mean), torch.full((4, 2, WIDTH), 0.25))
    one, other = (plan_from(planner, states(), seeded(), mean=start) for start in (mean, torch.zeros_like(mean)))
    assert torch.equal(one.action, other.action)


@pytest.mark.parametrize("execute", [1, 3, 4])
def test_a_warm_start_is_moved_by_what_was_executed_and_fresh_at_its_end(execute) -> None:
    planner = CEMPlanner(model(), init_mean=0.25, execute=execute, **SMALL)
    mean = torch.rand(2, 4, WIDTH)
    start = planner.warm_start(mean)
    assert torch.equal(start[: 4 - execute], mean.transpose(0, 1)[execute:])
    assert torch.equal(start[4 - execute :], torch.full((execute, 2, WIDTH), 0.25))


def acting(planner: SamplingPlanner, batch: int) -> TensorDict:
    """What an environment hands to the planner at its first step."""
    leaves = {
        ("latent", "deterministic"): states(batch),
        "is_init": torch.ones(batch, 1, dtype=torch.bool),
        PLANNER_MEAN: torch.rand(batch, planner.horizon, WIDTH),
    }
    if planner.execute > 1:
        leaves[PLANNER_SEQUENCE] = torch.rand(batch, planner.execute, WIDTH)
        leaves[PLANNER_LEFT] = torch.full((batch, 1), 1)
    return TensorDict(leaves, batch_size=[batch])


def carried(td: TensorDict, is_init: list[bool]) -> TensorDict:
    """The next step's tensordict: what the planner carries, and a state that moved on."""
    following = td.select("latent", ("next", "planner")).clone()
    following.update(following.pop("next"))
    following["latent", "deterministic"] = following["latent", "deterministic"] + 0.1
    return following.set("is_init", torch.tensor(is_init).unsqueeze(-1))


@PLANNERS
def test_a_whole_plan_is_executed_before_the_next_one_and_a_reset_drops_it(kind) -> None:
    planner = kind(model(), execute=3, **SMALL)
    planner.noise = noise = RecordingNoise(seeded())
    td = planner(acting(planner, 2))
    plan = td[PLANNER_SEQUENCE].clone()
    assert torch.equal(td["action"], plan[:, 0])
    td = planner(carried(td, [False, False]))
    assert torch.equal(td["action"], plan[:, 1])
    assert td[PLANNER_LEFT].flatten().tolist() == [1, 1]
    assert len(noise.draws["sample"]) == 3  # one plan of three iterations so far
    td = planner(carried(td, [False, True]))  # the second environment begins anew: it alone plans
    assert noise.draws["sample"][-1].shape[1] == 1
    assert torch.equal(td["action"][0], plan[0, 2])
    assert torch.equal(td[PLANNER_SEQUENCE][0], plan[0])
    assert torch.equal(td["action"][1], td[PLANNER_SEQUENCE][1, 0])
    assert td[PLANNER_LEFT].flatten().tolist() == [0, 2]
    td = planner(carried(td, [False, False]))  # now the first one is through its plan
    assert not torch.equal(td[PLANNER_SEQUENCE][0], plan[0])
    assert td[PLANNER_LEFT].flatten().tolist() == [2, 1]


def test_the_first_of_a_whole_plan_is_what_one_action_at_a_time_would_be() -> None:
    one, whole = CEMPlanner(model(), **SMALL), CEMPlanner(model(), execute=4, **SMALL)
    first = acting(whole, 3)
    actions = []
    for planner in (one, whole):
        planner.noise = seeded()
        actions.append(planner(first.clone())["action"])
    assert torch.equal(*actions)


def test_what_is_not_carried_is_named() -> None:
    planner = CEMPlanner(model(), execute=2, **SMALL)
    with pytest.raises(KeyError, match=r"planner\W+left.*auto_register_policy_transforms"):
        planner(acting(planner, 2).exclude(PLANNER_LEFT))


def test_draws_of_a_given_source_are_used() -> None:
    draws = [torch.randn(4, 2, 16, WIDTH) for _ in range(3)]
    noise = ReplayNoise({"sample": draws})
    plan = plan_from(CEMPlanner(model(), init_std=0.5, **SMALL), states(), noise)
    assert noise.unused() == {}
    torch.testing.assert_close(plan.iterations[0].actions, (0.5 * draws[0]).clamp(-1, 1))


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_mean": [0.0, 1.0]}, "init_mean must be one number or 3, one a flat action dimension; got 2"),
        ({"init_std": 5.0}, r"init_std must be in \[0.0, 2.0\], got 5.0"),
        ({"low": -3.0}, r"low must be in \[-1.0, 1.0\], got -3.0"),
        ({"low": 0.5, "high": 0.0}, "low must not exceed high, got 0.5 and 0.0"),
        ({"momentum": [0.0, 0.0, 1.5]}, r"momentum must be in \[0.0, 1.0\]"),
        ({"execute": 5}, r"A plan of 4 actions \(horizon\) cannot give 5 \(execute\)"),
        ({"keep_elites": 5}, "keep_elites 5 must be between 0 and num_elites 4"),
        ({"keep_elites": 4, "num_samples": 4}, "4 kept elites leave none to be drawn"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        CEMPlanner(model(), **{**SMALL, **options})
