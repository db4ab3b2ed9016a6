"""make_env against gymnasium and dm_control stepped by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import torchrl
from gymnasium import spaces
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, InitTracker, StepCounter, TensorDictPrimer, TransformedEnv
from torchrl.envs.utils import check_env_specs

from worldloom_rl.envs import episode_length, make_env


class Counting(gymnasium.Env[Any, Any]):
    """Rewards 1, 2, 4, 8, … so that a sum tells which steps were summed; terminal after `ends` steps."""

    def __init__(self, ends: int = 5, nan_at: int = 0, observation: Any = None, action: Any = None) -> None:
        self.ends, self.nan_at, self.steps = ends, nan_at, 0
        self.given = observation
        self.actions: list[Any] = []
        self.observation_space = observation or spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = action or spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 0.5]), dtype=np.float64)

    def observe(self) -> Any:
        return self.observation_space.sample() if self.given else np.array([self.steps], dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.steps < self.ends, "stepped after the end of the episode"
        self.actions.append(action)
        self.steps += 1
        reward = float("nan") if self.steps == self.nan_at else 2.0 ** (self.steps - 1)
        return self.observe(), reward, self.steps >= self.ends, False, {}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gymnasium.register("Counting-v0", Counting, max_episode_steps=100)
    gymnasium.register("Endless-v0", Counting, kwargs={"ends": 10**9})
    yield
    for name in ("Counting-v0", "Endless-v0"):
        gymnasium.registry.pop(name)


def register(monkeypatch: pytest.MonkeyPatch, **options: Any) -> str:
    spec = gymnasium.envs.registration.EnvSpec("Special-v0", Counting, max_episode_steps=100, kwargs=options)
    monkeypatch.setitem(gymnasium.registry, "Special-v0", spec)
    return "Special-v0"


def test_pendulum_is_float32_with_is_init_and_its_own_bounds() -> None:
    env = make_env("Pendulum-v1")
    check_env_specs(env)
    assert env.batch_size == torch.Size([])
    steps = env.rollout(3)
    assert steps["next", "observation"].dtype == steps["next", "reward"].dtype == torch.float32
    assert steps["next", "reward"].shape == (3, 1)
    assert steps["is_init"].flatten().tolist() == [True, False, False]
    assert env.action_spec.space.low.item() == -2.0
    assert env.action_spec.space.high.item() == 2.0


def test_steps_equal_gymnasium_under_the_same_seed_and_actions() -> None:
    env = make_env("Pendulum-v1", action_repeat=2, seed=7)
    torch.manual_seed(0)
    steps = env.rollout(10)
    # The seed was spent on the reset that set_seed does; rollout's reset goes on with the same generator.
    reference = gymnasium.make("Pendulum-v1")
    reference.reset(seed=7)
    observation, _ = reference.reset()
    for t in range(10):
        np.testing.assert_array_equal(steps["observation"][t].numpy(), observation)
        first = reference.step(steps["action"][t].numpy())
        observation, second, *_ = reference.step(steps["action"][t].numpy())
        assert steps["next", "reward"][t].item() == pytest.approx(float(first[1]) + float(second), rel=1e-6)


def test_action_repeat_sums_rewards_and_stops_at_the_terminal_step() -> None:
    steps = make_env("Counting-v0", action_repeat=2).rollout(100)
    assert steps["next", "reward"].flatten().tolist() == [1 + 2, 4 + 8, 16]
    assert steps["next", "observation"].flatten().tolist() == [2, 4, 5]
    assert steps["next", "terminated"].flatten().tolist() == [False, False, True]
    assert not steps["next", "truncated"].any()


def test_the_time_limit_truncates_inside_a_repeat_and_does_not_terminate() -> None:
    env = make_env("Endless-v0", action_repeat=2, time_limit=5)
    steps = env.rollout(100)
    assert episode_length(env) == len(steps) == 3
    assert steps["next", "reward"].flatten().tolist() == [1 + 2, 4 + 8, 16]
    assert steps["next", "truncated"].flatten().tolist() == [False, False, True]
    assert steps["next", "done"].flatten().tolist() == [False, False, True]
    assert not steps["next", "terminated"].any()


def test_episode_length_is_in_agent_steps_and_survives_further_transforms() -> None:
    assert episode_length(make_env("Pendulum-v1")) == 200
    env = make_env("Pendulum-v1", action_repeat=3)
    assert episode_length(TransformedEnv(env, StepCounter())) == 67
    assert episode_length(env.append_transform(StepCounter())) == 67
    assert episode_length(make_env("Pendulum-v1", action_repeat=2, num_envs=2, time_limit=50)) == 25


def test_an_environment_without_a_time_limit_is_told_how_to_get_one() -> None:
    with pytest.raises(ValueError, match=r"Endless-v0 has no time limit.*time_limit=1000.*--time-limit"):
        make_env("Endless-v0")


def test_an_unknown_name_gets_close_matches() -> None:
    with pytest.raises(ValueError, match=r"no 'Pendulm-v1'.*Did you mean Pendulum-v1"):
        make_env("Pendulm-v1")
    with pytest.raises(ValueError, match="Did you mean Pendulum-v1"):
        make_env("Pendulum-v0")
    with pytest.raises(ValueError, match="module:Id"):
        make_env("nothing like any of them")


def test_a_module_in_the_name_is_imported_and_registers_its_id(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_by_a_user.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control.pendulum:PendulumEnv', max_episode_steps=30)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert episode_length(make_env("made_by_a_user:Mine-v0")) == 30
    finally:
        gymnasium.registry.pop("Mine-v0", None)
        sys.modules.pop("made_by_a_user", None)


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, np.inf)])
def test_an_unbounded_action_is_refused_with_key_bounds_and_remedy(
    monkeypatch: pytest.MonkeyPatch, bounds: tuple[float, float]
) -> None:
    name = register(monkeypatch, action=spaces.Box(*bounds, (2,)))
    with pytest.raises(ValueError, match=r"'action' has the bounds low=.*high=\[inf inf\].*TransformAction"):
        make_env(name)


def test_an_observation_that_is_not_numbers_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = spaces.Dict({"mission": spaces.Sequence(spaces.Discrete(2)), "grid": spaces.Discrete(3)})
    name = register(monkeypatch, observation=spaces.Dict({"task": inner}))
    with pytest.raises(ValueError, match=r"the observation 'task.mission' is Sequence.*encode it"):
        make_env(name)
    for texts in (spaces.Text(8), spaces.Dict({"mission": spaces.Text(8)})):
        name = register(monkeypatch, observation=texts)
        with pytest.raises(ValueError, match=r"the observation 'observation' is .*Text.*encode it"):
            make_env(name)
    name = register(monkeypatch, observation=spaces.Tuple([spaces.Discrete(2)]))
    with pytest.raises(ValueError, match=r"the observation 'observation' is Tuple"):
        make_env(name)
    name = register(monkeypatch, observation=spaces.Dict({"reward": spaces.Discrete(3)}))
    with pytest.raises(ValueError, match=r"'reward' has a name of the key contract"):
        make_env(name)


class Mission(spaces.Space[str]):
    """Texts as other packages have them: no Text of gymnasium's."""

    def __init__(self) -> None:
        super().__init__(dtype=str)

    def sample(self, mask: object = None, probability: object = None) -> str:
        return "go to the door"


@pytest.mark.parametrize("num_envs", [1, 2])
def test_texts_beside_other_observations_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch, num_envs: int) -> None:
    inner = spaces.Dict({"said": spaces.Text(8), "of": spaces.Dict({"place": Mission()})})
    space = spaces.Dict({"grid": spaces.Discrete(3), "mission": Mission(), "inner": inner})
    name = register(monkeypatch, observation=space)
    with pytest.warns(UserWarning, match=r"texts.*\['inner.of.place', 'inner.said', 'mission'\] are left out"):
        env = make_env(name, num_envs=num_envs)
    check_env_specs(env)
    assert set(env.observation_spec.keys()) == {"grid", "is_init"}
    assert env.rollout(3)["grid"].shape[-1] == 3


def test_dictionary_observations_keep_their_keys_and_become_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = spaces.Dict({"y": spaces.Discrete(4), "image": spaces.Box(0, 255, (8, 8, 3), np.uint8)})
    space = spaces.Dict({"x": spaces.Box(-1e30, 1e30, (), np.float64), "inner": inner})
    name = register(monkeypatch, observation=space)
    env = make_env(name)
    check_env_specs(env)
    last = env.rollout(3)["next"]
    assert (last["x"].shape, last["x"].dtype) == ((3, 1), torch.float32)
    assert (last["inner", "y"].shape, last["inner", "y"].dtype) == ((3, 4), torch.float32)
    assert (last["inner", "y"].sum(-1) == 1).all()
    assert (last["inner", "image"].shape, last["inner", "image"].dtype) == ((3, 3, 8, 8), torch.uint8)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 5, 1), (1, 6, 5)),
        ((6, 5, 3), (3, 6, 5)),
        ((6, 5, 4), (4, 6, 5)),
        ((6, 5, 2), (2, 6, 5)),
        ((64, 48, 12), (12, 64, 48)),  # four frames side by side
        ((3, 6, 5), (3, 6, 5)),
        ((1, 6, 6), (1, 6, 6)),
        ((4, 84, 84), (4, 84, 84)),
        ((4, 8, 4), (4, 8, 4)),  # either axis could be the channels, but no picture is as small: left alone
    ],
)
def test_images_with_channels_last_become_channels_first_and_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    monkeypatch.setattr(Counting, "observe", lambda self: image)
    env = make_env(register(monkeypatch, observation=spaces.Box(0, 255, shape, np.uint8)))
    check_env_specs(env)
    observation = env.reset()["observation"]
    assert observation.dtype == torch.uint8
    wanted = image if shape == expected else image.transpose(2, 0, 1)
    np.testing.assert_array_equal(observation.numpy(), wanted)
    assert observation.shape == env.observation_spec["observation"].shape == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.bool_, np.int16, np.int64])
@pytest.mark.parametrize("shape", [(6, 5, 3), (3, 6, 5)])
def test_images_of_other_numbers_become_channels_first_too(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, shape: tuple[int, ...]
) -> None:
    image = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    monkeypatch.setattr(Counting, "observe", lambda self: image)
    env = make_env(register(monkeypatch, observation=spaces.Box(0, 1, shape, dtype)))
    check_env_specs(env)
    seen = env.reset()["observation"]
    np.testing.assert_array_equal(seen.numpy(), image if shape[0] == 3 else image.transpose(2, 0, 1))
    assert seen.dtype == torch.float32


@pytest.mark.parametrize("shape", [(4, 6, 5, 3), (4, 3, 6, 5), (4, 6, 5, 1)])
def test_a_stack_of_images_is_one_image_with_the_oldest_frame_first(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    stack = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    monkeypatch.setattr(Counting, "observe", lambda self: stack)
    env = make_env(register(monkeypatch, observation=spaces.Box(0, 255, shape, np.uint8)))
    check_env_specs(env)
    frames = [frame if shape[1] == 3 else frame.transpose(2, 0, 1) for frame in stack]
    np.testing.assert_array_equal(env.reset()["observation"].numpy(), np.concatenate(frames))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(16, 16, 16), (16, 64, 16), (64, 16, 32)])
def test_a_picture_whose_channels_could_be_first_or_last_is_refused(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: Any
) -> None:
    with pytest.raises(ValueError, match=r"Special-v0: the observation 'observation' .* could be the channels"):
        make_env(register(monkeypatch, observation=spaces.Box(0, 1, shape, dtype)))


def test_levels_in_another_type_are_bytes_if_they_are_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.arange(90).reshape(6, 5, 3)
    monkeypatch.setattr(Counting, "observe", lambda self: image)
    seen = make_env(register(monkeypatch, observation=spaces.Box(0, 255, (6, 5, 3), np.int32))).reset()["observation"]
    assert seen.dtype == torch.uint8
    np.testing.assert_array_equal(seen.numpy(), image.transpose(2, 0, 1))
    with pytest.raises(ValueError, match=r"levels from 0 to 255 as real numbers: give bytes"):
        make_env(register(monkeypatch, observation=spaces.Box(0, 255, (6, 5, 3), np.float32)))


def test_composite_and_shifted_discrete_actions_reach_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    space = spaces.Dict({"move": spaces.Box(-1.0, 1.0, (2,)), "press": spaces.Discrete(3, start=5)})
    env = make_env(register(monkeypatch, action=space))
    assert set(env.action_keys) == {"move", "press"}
    simulator = env.base_env.unwrapped if not isinstance(env, TransformedEnv) else env.base_env._env.unwrapped
    steps = env.rollout(4)
    for t, action in enumerate(simulator.actions[-4:]):
        assert action["press"] == steps["press"][t].argmax().item() + 5
        np.testing.assert_array_equal(action["move"], steps["move"][t].numpy())


def test_a_reward_that_is_not_a_number_names_the_environment_and_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(register(monkeypatch, nan_at=3), action_repeat=2)
    with pytest.raises(ValueError, match="Special-v0 gave the reward nan at simulator step 3"):
        env.rollout(5)


def test_observations_are_copies_of_what_the_simulator_reuses(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = np.zeros(1, np.float32)

    def observe(self: Counting) -> np.ndarray:
        buffer[:] = self.steps
        return buffer

    monkeypatch.setattr(Counting, "observe", observe)
    name = register(monkeypatch, observation=spaces.Box(-np.inf, np.inf, (1,), np.float32))
    assert make_env(name).rollout(4)["observation"].flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"action_repeat": 0}, "action_repeat"),
        ({"time_limit": 0}, "time_limit"),
        ({"frame_stack": 3}, "pixels=True"),
    ],
)
def test_impossible_arguments_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env("Pendulum-v1", **options)  # type: ignore[arg-type]


def test_seeds_repeat_an_environment_and_differ_between_environments() -> None:
    def starts(seed: int) -> torch.Tensor:
        observation: torch.Tensor = make_env("Pendulum-v1", num_envs=3, seed=seed).reset()["observation"]
        return observation

    first = starts(1)
    assert torch.equal(first, starts(1))
    assert not torch.equal(first, starts(2))
    assert len(first.unique(dim=0)) == 3


def test_making_a_seeded_environment_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    make_env("Pendulum-v1", num_envs=2, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def trackers(env: EnvBase) -> int:
    count = 0
    inner: EnvBase | None = env
    while isinstance(inner, TransformedEnv):
        count += sum(isinstance(part, InitTracker) for part in inner.transform.modules())
        inner = inner.base_env
    return count


class Remembering(TensorDictModuleBase):
    """A policy of zeros that counts the steps of an episode in a carried state."""

    in_keys = ("observation", "is_init", "memory")
    out_keys = ("action", "memory", ("next", "memory"))

    def __init__(self, action: int) -> None:
        super().__init__()
        self.action = action

    def forward(self, steps: TensorDictBase) -> TensorDictBase:
        memory = steps["memory"].masked_fill(steps["is_init"], 0.0) + 1
        steps["memory"] = memory
        steps["next", "memory"] = memory
        return steps.set("action", memory.new_zeros(*steps.batch_size, self.action))

    def make_tensordict_primer(self) -> TensorDictPrimer:
        return TensorDictPrimer(Composite(memory=Unbounded((1,))), default_value=0.0, expand_specs=True)


def collect(env: EnvBase, steps: int, action: int) -> TensorDictBase:
    """[num_envs, steps] by a stock collector under a policy of zeros."""
    from torchrl.collectors import Collector

    num_envs = env.batch_size.numel()
    collector = Collector(
        env,
        Remembering(action),
        frames_per_batch=steps * num_envs,
        total_frames=steps * num_envs,
        auto_register_policy_transforms=True,
    )
    try:
        (batch,) = list(collector)
        assert trackers(collector.env) == 1
    finally:
        collector.shutdown()
    return batch.reshape(num_envs, steps)


@pytest.mark.filterwarnings("ignore:Creating .* which inherits from WeightUpdaterBase is deprecated:DeprecationWarning")
@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_stock_collector_resets_it_with_one_init_tracker(num_envs: int) -> None:
    rows = collect(make_env("Counting-v0", num_envs=num_envs), steps=12, action=2)
    assert rows["observation"].flatten(1).tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]] * num_envs
    assert (rows["is_init"] == (rows["observation"] == 0)).all()
    assert torch.equal(rows["memory"], rows["observation"] + 1)
    assert (rows["next", "terminated"] == (rows["next", "observation"] == 5)).all()


@pytest.mark.process
@pytest.mark.usefixtures("fork_server")
@pytest.mark.filterwarnings("ignore:Creating .* which inherits from WeightUpdaterBase is deprecated:DeprecationWarning")
def test_parallel_environments_are_collected_as_serial_ones_are() -> None:
    env = make_env("Pendulum-v1", num_envs=2, action_repeat=2, time_limit=8, seed=5, parallel=True)
    assert episode_length(env) == 4
    parallel = collect(env, steps=6, action=1)
    assert parallel["is_init"].flatten(1).tolist() == [[True, False, False, False, True, False]] * 2
    serial = collect(make_env("Pendulum-v1", num_envs=2, action_repeat=2, time_limit=8, seed=5), steps=6, action=1)
    assert parallel["memory"].flatten(1).tolist() == [[1, 2, 3, 4, 1, 2]] * 2
    assert torch.equal(parallel["next", "reward"], serial["next", "reward"])


def test_pixels_are_stacked_channels_first_and_the_first_frame_is_repeated() -> None:
    env = make_env("Pendulum-v1", pixels=True, frame_stack=3, image_size=32)
    check_env_specs(env)
    steps = env.rollout(4)
    assert "observation" not in set(steps.keys())
    pixels = steps["pixels"]
    assert (pixels.shape, pixels.dtype) == ((4, 9, 32, 32), torch.uint8)
    assert torch.equal(pixels[0, :3], pixels[0, 6:])
    assert torch.equal(pixels[1, 3:], torch.cat([pixels[0, :3], pixels[1, 6:]]))
    assert torch.equal(pixels[3, :3], pixels[1, 6:])
    assert not torch.equal(pixels[3, 6:], pixels[2, 6:])


def test_pixels_are_the_mean_over_areas_of_the_rendered_frame() -> None:
    env = make_env("Pendulum-v1", pixels=True, image_size=50, seed=1)
    pixels = env.reset()["pixels"]
    frame = env.base_env._env.env.render()  # 500 x 500
    means = frame.astype(np.float64).reshape(50, 10, 50, 10, 3).mean((1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(pixels.numpy(), means, atol=0.51)


def test_a_missing_dm_control_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    monkeypatch.delitem(sys.modules, "dm_control.suite", raising=False)
    with pytest.raises(ImportError, match=r"worldloom-rl\[dmc\]"):
        make_env("dmc:cartpole-balance")


def test_a_control_suite_episode_ends_by_truncation_after_500_agent_steps() -> None:
    pytest.importorskip("dm_control")
    env = make_env("dmc:cartpole-balance", action_repeat=2)
    check_env_specs(env)
    assert episode_length(env) == 500
    steps = env.rollout(1000)
    assert len(steps) == 500
    assert steps["observation"].dtype == torch.float32
    assert steps["observation"].shape == (500, 5)
    assert steps["next", "truncated"].flatten().nonzero().flatten().tolist() == [499]
    assert not steps["next", "terminated"].any()


def test_a_control_suite_step_equals_dm_control_and_other_limits_are_taken() -> None:
    suite = pytest.importorskip("dm_control.suite")
    env = make_env("dmc:cup-catch", action_repeat=2, time_limit=7, seed=4)
    steps = env.rollout(100)
    assert len(steps) == episode_length(env) == 4
    assert steps["next", "truncated"].flatten().tolist() == [False, False, False, True]
    task = suite.load("ball_in_cup", "catch", task_kwargs={"random": np.random.RandomState(4)})
    task.reset()
    step = task.reset()
    for t in range(3):
        expected = np.concatenate([np.ravel(leaf) for leaf in step.observation.values()])
        np.testing.assert_array_equal(steps["observation"][t].numpy(), expected.astype(np.float32))
        task.step(steps["action"][t].numpy())
        step = task.step(steps["action"][t].numpy())


def test_a_control_suite_state_is_terminal_only_at_discount_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dm_control")
    from dm_control.suite import cartpole

    for discount, terminal in ((0.0, True), (0.5, False), (1.0, False)):
        monkeypatch.setattr(
            cartpole.Balance, "get_termination", lambda self, physics, value=discount: value, raising=False
        )
        last = make_env("dmc:cartpole-balance").rollout(5)["next"][-1]
        assert (last["terminated"].item(), last["truncated"].item()) == (terminal, not terminal)


def test_an_unknown_control_suite_task_gets_close_matches() -> None:
    pytest.importorskip("dm_control")
    with pytest.raises(ValueError, match=r"Did you mean .*dmc:cartpole-balance"):
        make_env("dmc:cartpole-balanse")


def test_control_suite_pixels_have_the_size_asked_for() -> None:
    pytest.importorskip("dm_control")
    env = make_env("dmc:cartpole-balance", pixels=True, frame_stack=2, image_size=24)
    try:
        pixels = env.rollout(2)["pixels"]
    except RuntimeError as error:
        pytest.skip(f"no OpenGL here: {error}")
    assert (pixels.shape, pixels.dtype) == ((2, 6, 24, 24), torch.uint8)
    assert pixels.float().std() > 1


def test_closing_several_environments_leaves_torchs_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchrl, "_THREAD_POOL_INIT", 8)  # the number that TorchRL found when it was imported
    threads = torch.get_num_threads()
    env = make_env("Pendulum-v1", num_envs=2)
    env.reset()
    env.close()
    assert torch.get_num_threads() == threads


def test_bytes_that_are_no_image_become_real_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = np.array([0, 7, 255], np.uint8)
    monkeypatch.setattr(Counting, "observe", lambda self: memory)
    env = make_env(register(monkeypatch, observation=spaces.Box(0, 255, (3,), np.uint8)))
    check_env_specs(env)
    observation = env.reset()["observation"]
    assert (observation.dtype, observation.tolist()) == (torch.float32, [0.0, 7.0, 255.0])


@pytest.mark.parametrize("num_envs", [1, 2])
def test_several_choices_at_once_reach_the_simulator_with_their_own_start(
    monkeypatch: pytest.MonkeyPatch, num_envs: int
) -> None:
    taken: list[list[int]] = []
    step = Counting.step
    monkeypatch.setattr(Counting, "step", lambda self, action: (taken.append(list(action)), step(self, action))[1])
    env = make_env(register(monkeypatch, action=spaces.MultiDiscrete([3, 4], start=[1, -1])), num_envs=num_envs, seed=0)
    td = env.reset()
    td["action"] = torch.tensor([0, 0, 1, 1, 0, 0, 0]).expand(*env.batch_size, 7)
    env.step(td)
    assert taken[-num_envs:] == [[3, -1]] * num_envs


def test_a_simulator_whose_package_is_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: object, **__: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("box2d is not installed")

    monkeypatch.setattr(gymnasium, "make", make)
    with pytest.raises(ImportError, match="cannot make 'CartPole-v1': box2d is not installed"):
        make_env("CartPole-v1")


def test_bounded_entries_of_the_observation_can_be_rescaled() -> None:
    plain, rescaled = (make_env("CartPole-v1", seed=3, rescale_observations=on) for on in (False, True))
    torch.manual_seed(0)
    expected = plain.rollout(8)["observation"]
    torch.manual_seed(0)
    found = rescaled.rollout(8)["observation"]
    bounds = torch.tensor([4.8, 1.0, 24 * torch.pi / 180, 1.0])  # the velocities have none
    torch.testing.assert_close(found, expected / bounds, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "said"), [("dmc:cartpole-balance", "no bounds"), ("worldloom/Catch-v0", "real Box")])
def test_what_cannot_be_rescaled_is_said(name: str, said: str) -> None:
    if name.startswith("dmc:"):
        pytest.importorskip("dm_control")
    with pytest.raises(ValueError, match=said):
        make_env(name, rescale_observations=True)
