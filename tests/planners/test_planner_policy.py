"""The policy around a plan: batches, what it carries, exploration types, whole plans, and its errors."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from analytic_model import RecordingNoise, seeded
from problems import ACTING, ACTIONS, BOX, SMALL, WIDTH, acting_state, pushed, quadratic, run, states, tdmpc2
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Composite
from torchrl.envs.utils import ExplorationType

from worldloom_rl import ReplayNoise
from worldloom_rl.keys import PLANNER_LEFT, PLANNER_SEQUENCE
from worldloom_rl.models.tdmpc2 import make_planner
from worldloom_rl.noise import Noise
from worldloom_rl.planners import CEMPlanner, ICEMPlanner, MPPIPlanner, Planner
from worldloom_rl.planners.distribution import SequenceDistribution
from worldloom_rl.planners.options import PlanOptions
from worldloom_rl.planners.plan import Plan
from worldloom_rl.world_model import Latent, WorldModel

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


@ACTING
@ACTIONS
def test_a_planner_plans_a_batch_as_it_plans_each_environment_alone(kind, action):
    planner = kind(quadratic(action), horizon=4, num_samples=64, num_elites=8)
    td, noise = acting_state(planner, [3]), RecordingNoise(seeded())
    together = run(planner, td, noise)
    for row in range(3):
        alone = run(planner, td[row : row + 1], ReplayNoise(noise.of_row(row)))
        for key in (*planner.model.action_keys, ("planner", "mean")):
            torch.testing.assert_close(alone[key], together[row : row + 1][key], rtol=0, atol=1e-5)


@ACTING
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


# ---------------------------------------------------------------------- what is carried


@ACTING
@ACTIONS
def test_the_warm_start_is_forgotten_exactly_where_is_init_is_set(kind, action):
    planner = kind(quadratic(action), horizon=4, num_samples=32, num_elites=4, iterations=2)
    td = acting_state(planner, [3])
    reset = td.clone()
    reset["is_init"][1] = True
    zeroed = td.clone()
    zeroed["planner", "mean"][1] = 0.0
    if planner.options.carry_elites:
        zeroed["planner", "elites"][1] = torch.nan
    expected, got, kept = (run(planner, each, seeded())["planner", "mean"] for each in (zeroed, reset, td))
    assert torch.equal(got, expected)
    assert torch.equal(got[[0, 2]], kept[[0, 2]])
    assert not torch.equal(got[1], kept[1])


def test_the_primer_gives_each_environment_zeros_of_the_plans_shape():
    planner = MPPIPlanner(quadratic(), horizon=4)
    spec = planner.make_tensordict_primer().primers
    assert spec["planner", "mean"].shape == (4, 2)
    assert planner.out_keys == ["action", ("planner", "mean"), ("next", "planner", "mean")]
    assert set(planner.in_keys) == {("latent", "deterministic"), "is_init", ("planner", "mean")}


def test_planning_leaves_gradients_off_and_the_carried_state_in_place():
    planner = make_planner(tdmpc2(Composite(action=BOX)))
    td = run(planner, acting_state(planner, [2]), seeded())
    assert not td["action"].requires_grad
    assert td["planner", "mean"].shape == (2, 3, 2)


# ---------------------------------------------------------------------- planners of one's own


def greedy(
    model: WorldModel,
    latent: Latent,
    previous_mean: Tensor,
    distribution: SequenceDistribution,
    noise: Noise,
    *,
    explore: bool,
    choices: int,
) -> Plan:
    """The sequence that repeats the action which pays most at once."""
    shape = (previous_mean.shape[0], choices, model.action_space.width)
    actions = 2 * noise.uniform("sample", shape, previous_mean) - 1
    best = model.predict_branches(latent, actions, noise).reward.argmax(1, keepdim=True)
    sequence = actions.take_along_dim(best, 1).expand(-1, distribution.options.horizon, -1)
    return Plan(sequence[:, 0], sequence, [], sequence[:, : distribution.options.execute])


@pytest.mark.parametrize("execute", [1, 2])
def test_any_plan_function_is_a_policy(execute):
    planner = Planner(pushed(), PlanOptions(horizon=4, execute=execute), partial(greedy, choices=500), noise=seeded())
    assert planner.make_tensordict_primer().primers["planner", "mean"].shape == (4, WIDTH)
    td = acting(planner, 2)
    acted = planner(td.clone())
    wanted = (torch.linspace(-0.5, 0.5, WIDTH) - 0.9 * td["latent", "deterministic"]) / 0.3  # by one push
    torch.testing.assert_close(acted["action"], wanted.clamp(-1, 1), rtol=0, atol=0.5)
    assert torch.equal(acted["planner", "mean"], acted["action"].unsqueeze(1).expand(2, 4, WIDTH))


def test_the_best_sequences_of_a_plan_stand_moved_on_among_the_samples_of_the_next():
    planner = ICEMPlanner(pushed(), noise=seeded(), include_mean=False, **{**SMALL, "num_samples": 32})
    td = planner(acting(planner, 2))
    elites = td["next", "planner", "elites"]
    assert elites.shape == (2, 3, 4, WIDTH)
    following = carried(td, [False, True])
    plan = planner.plan(
        {"deterministic": following["latent", "deterministic"]},
        following["planner", "mean"],
        seeded(),
        explore=False,
        previous_elites=elites.index_fill(0, torch.tensor([1]), torch.nan),
    )
    first = plan.iterations[0].actions[:, :, :3]
    assert torch.equal(first[:-1, 0], elites[0].transpose(0, 1)[1:])
    assert first.isfinite().all()
    assert not torch.equal(first[:-1, 1], elites[1].transpose(0, 1)[1:])
    assert [len(each.value[0]) for each in plan.iterations] == [32, 25, 20]


@ACTING
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda planner: pickle.loads(pickle.dumps(planner))])
def test_a_copied_or_pickled_planner_plans_the_same(kind, copied):
    planner = kind(tdmpc2(Composite(action=BOX)), horizon=3, num_samples=32, num_elites=4, execute=2)
    state = acting_state(planner, [2])
    state[PLANNER_SEQUENCE], state[PLANNER_LEFT] = torch.zeros(2, 2, 2), torch.zeros(2, 1, dtype=torch.int64)
    first, second = (run(each, state, seeded()) for each in (planner, copied(planner)))
    assert torch.equal(first["action"], second["action"])
    assert torch.equal(first["planner", "sequence"], second["planner", "sequence"])


# ---------------------------------------------------------------------- exploration


@ACTIONS
@ACTING
def test_deterministic_planning_repeats_under_a_seed_and_draws_no_action_noise(kind, action):
    planner = kind(quadratic(action), horizon=3, num_samples=32, num_elites=4)
    td, noise = acting_state(planner, [3]), RecordingNoise(seeded())
    first = run(planner, td, noise, ExplorationType.DETERMINISTIC)
    second = run(planner, td, seeded(), ExplorationType.DETERMINISTIC)
    assert all(torch.equal(first[key], second[key]) for key in planner.model.action_keys)
    assert set(noise.draws) == ({"sample", "elite"} if kind is MPPIPlanner else {"sample"})


@pytest.mark.parametrize("exploration", [ExplorationType.MODE, ExplorationType.MEAN])
def test_every_exploration_type_but_random_plans_without_action_noise(exploration):
    planner = CEMPlanner(quadratic(), horizon=3, num_samples=32, num_elites=4)
    td = acting_state(planner, [3])
    expected = run(planner, td, seeded(), ExplorationType.DETERMINISTIC)["action"]
    assert torch.equal(run(planner, td, seeded(), exploration)["action"], expected)


# ---------------------------------------------------------------------- whole plans


def acting(planner: Planner, batch: int) -> TensorDict:
    """What an environment hands to the planner at its first step."""
    td = TensorDict({"is_init": torch.ones(batch, 1, dtype=torch.bool)}, batch_size=[batch])
    for key, spec in planner.make_tensordict_primer().primers.items(True, True):
        td[key] = torch.full((batch, *spec.shape), 1) if key == PLANNER_LEFT else torch.rand(batch, *spec.shape)
    return td.set(("latent", "deterministic"), states(batch))


def carried(td: TensorDict, is_init: list[bool]) -> TensorDict:
    """The next step's tensordict: what the planner carries, and a state that moved on."""
    following = td.select("latent", ("next", "planner")).clone()
    following.update(following.pop("next"))
    following["latent", "deterministic"] = following["latent", "deterministic"] + 0.1
    return following.set("is_init", torch.tensor(is_init).unsqueeze(-1))


@ACTING
def test_a_whole_plan_is_executed_before_the_next_one_and_a_reset_drops_it(kind) -> None:
    planner = kind(pushed(), execute=3, **SMALL)
    planner.noise = noise = RecordingNoise(seeded())
    td = planner(acting(planner, 2))
    plan = td[PLANNER_SEQUENCE].clone()
    assert torch.equal(td["action"], plan[:, 0])
    td = planner(carried(td, [False, False]))
    assert torch.equal(td["action"], plan[:, 1])
    assert td[PLANNER_LEFT].flatten().tolist() == [1, 1]
    assert len(noise.draws["sample"]) == 3 + (kind is ICEMPlanner)  # one plan of three iterations so far
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
    one, whole = CEMPlanner(pushed(), **SMALL), CEMPlanner(pushed(), execute=4, **SMALL)
    first = acting(whole, 3)
    actions = []
    for planner in (one, whole):
        planner.noise = seeded()
        actions.append(planner(first.clone())["action"])
    assert torch.equal(*actions)


# ---------------------------------------------------------------------- errors


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


def test_what_is_not_carried_is_named() -> None:
    planner = CEMPlanner(pushed(), execute=2, **SMALL)
    with pytest.raises(KeyError, match=r"planner\W+left.*auto_register_policy_transforms"):
        planner(acting(planner, 2).exclude(PLANNER_LEFT))
