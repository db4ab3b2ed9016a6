"""TD-MPC2's planner as the policy of stock collectors, against single environments and against replanning by hand."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from zlib import crc32

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.collectors import Collector, MultiSyncCollector
from torchrl.envs import EnvBase, GymEnv, ParallelEnv, SerialEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl import GeneratorNoise
from worldloom_rl.models.tdmpc2 import TDMPC2, make_planner
from worldloom_rl.noise import Noise
from worldloom_rl.planners import ICEMPlanner, Planner, PredictiveSamplingPlanner
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.specs.environment import specs_of

STEPS = 16  # of each environment
NAMES = pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
process = pytest.mark.process


def makers(name: str) -> list[Callable[[], EnvBase]]:
    """Two environments whose episodes end at different times."""
    return [partial(GymEnv, name, max_episode_steps=steps) for steps in (7, 5)]


class RowNoise(Noise):
    """The n-th draw of a name for environment e depends on (e, name, n) alone, whatever else is in the batch.

    "sample" is [H, B, …] and "pair" is shared by the batch; all other draws are [B, …].
    """

    def __init__(self, environments: Sequence[int], *, repeat: bool = False) -> None:
        self.environments = tuple(environments)
        self.repeat = repeat  # the same draws at each call: nothing to keep in step across processes
        self.calls: Counter[str] = Counter()

    def _draw(self, method: str, name: str, shape: Sequence[int], *rest: object) -> Tensor:
        number = 0 if self.repeat else self.calls[name]
        self.calls[name] += 1
        axis = 1 if name == "sample" else 0
        shape = list(shape)
        assert shape[axis] == len(self.environments)
        shape[axis] = 1
        rows = []
        for environment in self.environments:
            generator = torch.Generator().manual_seed(crc32(f"{environment}/{name}/{number}".encode()))
            rows.append(getattr(GeneratorNoise(generator), method)(name, shape, *rest))
        return torch.cat(rows, axis)

    def normal(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._draw("normal", name, shape, like)

    def uniform(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._draw("uniform", name, shape, like)

    def exponential(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._draw("exponential", name, shape, like)

    def integers(self, name: str, high: int, shape: Sequence[int], like: Tensor) -> Tensor:
        raise AssertionError("planning from vectors draws no integers")

    def keep(self, name: str, shape: Sequence[int], rate: float, like: Tensor) -> Tensor:
        raise AssertionError("planning drops nothing")

    def permutation(self, name: str, count: int, like: Tensor) -> Tensor:
        number = 0 if self.repeat else self.calls[name]
        self.calls[name] += 1
        return GeneratorNoise(torch.Generator().manual_seed(number)).permutation(name, count, like)


def make_policy(name: str) -> tuple[TDMPC2, Planner, TensorDictSequential]:
    """A tiny TD-MPC2 with non-zero reward and Q layers, and its planner behind the encoder."""
    torch.manual_seed(0)
    model = TDMPC2(find_preset("tdmpc2:tiny")[1], *specs_of(GymEnv(name)))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "reward_head" in key or "q_ensemble" in key:
                parameter.add_(0.2 * torch.randn_like(parameter))
    planner = make_planner(model, num_samples=64)
    return model, planner, TensorDictSequential(model.encode, planner)


def collect(
    env: EnvBase,
    policy: TensorDictSequential,
    *,
    exploration: ExplorationType = ExplorationType.RANDOM,
    ready: Callable[[], None] = lambda: None,
) -> TensorDictBase:
    """[E, T] transitions in two batches of a stock collector; `ready` runs before its first step."""
    count = env.batch_size.numel()
    collector = Collector(
        env,
        policy,
        frames_per_batch=STEPS * count // 2,
        total_frames=STEPS * count,
        auto_register_policy_transforms=True,
        exploration_type=exploration,
    )
    try:
        ready()
        batches = [batch.reshape(count, -1).clone() for batch in collector]
    finally:
        collector.shutdown()
    return torch.cat(batches, 1)


def with_noise(env: EnvBase, planner: Planner, policy: TensorDictSequential, rows: Sequence[int]) -> TensorDictBase:
    noise = RowNoise(rows)
    planner.noise = noise
    return collect(env, policy, ready=noise.calls.clear)  # a collector tries the policy out when it is built


def assert_rows_equal_single_runs(name: str, kind: type[SerialEnv] | type[ParallelEnv]) -> None:
    _, planner, policy = make_policy(name)
    env = kind(2, makers(name))
    env.set_seed(5)
    together = with_noise(env, planner, policy, [0, 1])
    starts = together["is_init"].squeeze(-1)
    assert starts[0].nonzero().flatten().tolist() == [0, 7, 14]
    assert starts[1].nonzero().flatten().tolist() == [0, 5, 10, 15]
    seed = 5
    for row, make in enumerate(makers(name)):
        single = make()
        seed = single.set_seed(seed)  # a batched environment chains the seeds in this way
        alone = with_noise(single, planner, policy, [row])[0]
        assert torch.equal(alone["is_init"], together["is_init"][row])
        for key in ("observation", "action", ("latent", "deterministic"), ("planner", "mean"), ("next", "reward")):
            difference = (alone[key].double() - together[row][key].double()).abs().max().item()
            assert difference < 1e-4, (key, row, difference)


def replanned(planner: Planner, rows: TensorDictBase, noise: Callable[[], Noise]) -> TensorDict:
    """[T] what the planner writes, given each row's latent and what the previous row carried, none at a start."""
    steps = []
    for number, row in enumerate(rows):
        planner.noise = noise()
        before = rows[max(number - 1, 0)]["planner"]
        td = row.select("latent", "is_init").set("planner", before.clone())
        steps.append(planner(td))
    return torch.stack(steps)


def assert_warm_start_is_carried(planner: Planner, rows: TensorDictBase) -> None:
    """Of [T] rows collected under `RowNoise([0], repeat=True)`."""
    with set_exploration_type(ExplorationType.RANDOM):
        expected = replanned(planner, rows, lambda: RowNoise([0], repeat=True))
    torch.testing.assert_close(rows["planner", "mean"], expected["planner", "mean"], rtol=0, atol=1e-4)
    torch.testing.assert_close(rows["action"], expected["action"], rtol=0, atol=1e-4)


# ---------------------------------------------------------------------- the policy itself


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))])
def test_a_copied_or_pickled_policy_plans_with_the_model_that_came_along(copied):
    model, _, policy = make_policy("Pendulum-v1")
    other = copied(policy)
    assert len({id(parameter) for parameter in other.parameters()}) == len(list(model.parameters()))
    td = TensorDict(
        {
            "observation": torch.ones(1, 3),
            "is_init": torch.ones(1, 1, dtype=torch.bool),
            "planner": {"mean": torch.zeros(1, 3, 1)},
        },
        [1],
    )

    def mean(acting: TensorDictSequential) -> Tensor:
        acting[1].noise = RowNoise([0])
        return acting(td.clone())["planner", "mean"]

    before = mean(policy)
    assert torch.equal(mean(other), before)
    with torch.no_grad():
        for parameter in other[1].model.behavior.parameters():  # the prior and the Qs, which the planner calls
            parameter.normal_()
    assert not torch.equal(mean(other), before)
    assert torch.equal(mean(policy), before)


# ---------------------------------------------------------------------- one environment


@NAMES
def test_a_single_environment_carries_the_warm_start_and_drops_it_at_each_reset(name):
    _, planner, policy = make_policy(name)
    env = makers(name)[0]()
    env.set_seed(5)
    planner.noise = RowNoise([0], repeat=True)
    rows = collect(env, policy)[0]
    assert rows["is_init"].flatten().nonzero().flatten().tolist() == [0, 7, 14]
    assert_warm_start_is_carried(planner, rows)
    carried = rows["next", "planner", "mean"]
    assert torch.equal(carried[:-1][~rows["is_init"][1:, 0]], rows["planner", "mean"][:-1][~rows["is_init"][1:, 0]])


@NAMES
def test_the_collected_latent_is_the_encoders_and_actions_lie_in_the_spec(name):
    model, _, policy = make_policy(name)
    env = makers(name)[0]()
    rows = collect(env, policy)[0]
    with torch.no_grad():
        latent = model.encode(rows.select("observation"))["latent", "deterministic"]
    torch.testing.assert_close(rows["latent", "deterministic"], latent, rtol=0, atol=1e-6)
    assert all(model.action_spec["action"].is_in(action) for action in rows["action"])


@NAMES
def test_deterministic_collection_repeats_under_a_seed_and_differs_from_exploration(name):
    _, _, policy = make_policy(name)

    def run(seed: int, exploration: ExplorationType) -> Tensor:
        env = makers(name)[0]()
        env.set_seed(5)
        return collect(env, policy, exploration=exploration, ready=lambda: torch.manual_seed(seed))["action"]

    first = run(0, ExplorationType.DETERMINISTIC)
    assert torch.equal(run(0, ExplorationType.DETERMINISTIC), first)
    assert not torch.equal(run(0, ExplorationType.RANDOM), first)


@NAMES
@pytest.mark.parametrize("kind", [PredictiveSamplingPlanner, ICEMPlanner])
def test_a_planner_carries_what_its_next_plan_begins_with_through_a_collector(kind, name):
    model, _, _ = make_policy(name)
    planner = kind(model, horizon=3, num_samples=64, noise=RowNoise([0], repeat=True))
    rows = collect(makers(name)[0](), TensorDictSequential(model.encode, planner))[0]
    assert rows["is_init"].flatten().nonzero().flatten().tolist() == [0, 7, 14]
    assert_warm_start_is_carried(planner, rows)


# ---------------------------------------------------------------------- two environments


@NAMES
def test_each_row_of_a_serial_environment_acts_as_it_does_alone_also_after_resets(name):
    assert_rows_equal_single_runs(name, SerialEnv)


@process
@pytest.mark.usefixtures("fork_server")
@NAMES
def test_each_row_of_a_parallel_environment_acts_as_it_does_alone_also_after_resets(name):
    assert_rows_equal_single_runs(name, ParallelEnv)


# ---------------------------------------------------------------------- collectors in processes


@process
@pytest.mark.usefixtures("fork_server")
@NAMES
def test_process_collectors_carry_the_warm_start_and_receive_new_encoder_weights(name):
    model, planner, policy = make_policy(name)
    planner.noise = RowNoise([0], repeat=True)
    collector = MultiSyncCollector(
        makers(name),
        policy,
        frames_per_batch=2 * STEPS,
        total_frames=6 * STEPS,
        auto_register_policy_transforms=True,
        cat_results=0,
    )
    try:
        batches = []
        for batch in collector:
            with torch.no_grad():
                latent = model.encode(batch.select("observation"))["latent", "deterministic"]
            # other batch sizes and threads round otherwise; another encoder is ten times further away
            torch.testing.assert_close(batch["latent", "deterministic"], latent, rtol=0, atol=1e-4)
            batches.append((batch.clone(), latent))
            if len(batches) == 1:
                for rows in batch.reshape(2, STEPS):
                    assert_warm_start_is_carried(planner, rows)
            with torch.no_grad():
                for parameter in model.encoder.parameters():
                    parameter.mul_(1.5).add_(0.1)
                old = model.encode(batch.select("observation"))["latent", "deterministic"]
            assert (old - latent).abs().max() > 1e-3  # the new encoder is another one
            collector.update_policy_weights_()
        assert len(batches) == 3
    finally:
        collector.shutdown()
