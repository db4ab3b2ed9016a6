"""What simulators give that they did not promise: taken as it was meant, or refused by the environment's name."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldloom_rl.envs import make_env
from worldloom_rl.specs.environment import specs_of


class Given(gymnasium.Env[Any, Any]):
    """An environment whose every answer is given."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium declares it on instances
    action_space = spaces.Discrete(2)

    def __init__(
        self,
        space: Any = None,
        see: Callable[[], Any] = lambda: np.zeros(2, np.float32),
        reward: Any = 1.0,
        frame: Any = None,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32) if space is None else space
        self.see, self.reward, self.frame, self.render_mode = see, reward, frame, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.see(), {}

    def step(self, action: Any) -> Any:
        return self.see(), self.reward, False, False, {}

    def render(self) -> Any:
        return self.frame


def make(given: Any = Given, pixels: bool = False, **kwargs: Any) -> Any:
    gymnasium.registry.pop("Given-v0", None)
    gymnasium.register("Given-v0", given, max_episode_steps=10, kwargs=kwargs)
    return make_env("Given-v0", pixels=pixels)


@pytest.mark.parametrize(("wrong", "said"), [(np.nan, "nan"), (np.inf, "inf")])
def test_an_observation_that_is_not_finite_is_named_with_its_place_and_step(wrong: float, said: str) -> None:
    steps = iter(range(10))
    nested = spaces.Dict({"arm": spaces.Dict({"angles": spaces.Box(-1.0, 1.0, (2,), np.float32)})})
    env = make(space=nested, see=lambda: {"arm": {"angles": np.array([0.0, wrong if next(steps) == 3 else 0.5])}})
    with pytest.raises(ValueError, match=rf"Given-v0: .*arm.angles\[1\] was {said} at simulator step \d of its"):
        env.rollout(5)
    assert make(see=lambda: np.array([-np.inf, 0.0])).rollout(2)["observation"].isneginf().any()


def test_an_action_that_is_not_finite_is_the_policys_fault_not_the_environments() -> None:
    env = make_env("Pendulum-v1")
    with pytest.raises(FloatingPointError, match=r"Pendulum-v1 was given the action \[nan\]: the policy's numbers"):
        env.step(env.reset().set("action", torch.tensor([torch.nan])))


@pytest.mark.parametrize(
    "reward",
    [
        1, np.float64(1), np.float16(1), np.array(1.0), np.array([1.0]), np.array([[1]]), [1.0], True, Fraction(1),
        np.array([1.0], object), torch.ones(1),
    ],
)  # fmt: skip
def test_one_number_is_a_reward_in_whatever_shape(reward: Any) -> None:
    assert make(reward=reward).rollout(2)["next", "reward"].tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(
    "reward",
    [
        None, "much", "1.0", b"1", np.zeros(2), np.zeros(0), [1.0, 2.0], [[1.0], []], {"a": 1.0}, 1j, object(),
        np.array([None]), torch.ones(1, requires_grad=True),
    ],
)  # fmt: skip
def test_anything_else_is_refused_as_a_reward(reward: Any) -> None:
    with pytest.raises(ValueError, match=r"Given-v0 gave the reward .* one number is expected"):
        make(reward=reward).rollout(2)


_DICT = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Dict({"c": spaces.Box(-1, 1, (2,))})})
_BYTES = spaces.Box(0, 255, (8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (None, np.zeros(5), r"the observation has shape \(5,\), its space says \(2,\)"),
        (None, np.zeros((1, 2)), r"shape \(1, 2\), its space says \(2,\)"),
        (None, None, "the observation is None, its space Box"),
        (None, [[0.0], [0.0, 1.0]], "the observation is .*, no array"),
        (None, np.full(2, 1e300), "holds 1e\\+300, too large for float32: scale it"),
        (None, np.array(["a", "b"]), "mend one of them"),
        (_DICT, {"a": np.zeros(2)}, r"the observation lacks \['b'\]"),
        (_DICT, {"a": np.zeros(2), "b": {}}, r"the observation 'b' lacks \['c'\]"),
        (_DICT, {"a": np.zeros(2), "b": {"c": np.zeros(3)}}, r"the observation 'b\.c' has shape \(3,\)"),
        (
            _DICT,
            {"a": np.zeros(2), "b": {"c": np.zeros(2), "d": 0}},
            r"the observation 'b' has \['d'\], unknown",
        ),
        (_DICT, {"a": None, "b": {"c": np.zeros(2)}}, "the observation 'a' is None"),
        (_DICT, np.zeros(2), "is a ndarray, its space a dictionary"),
        (spaces.Discrete(5), np.float32(2.0), r"none of Discrete\(5\)"),
        (spaces.Discrete(5), 5, r"none of Discrete\(5\)"),
        (spaces.Discrete(5, start=1), 0, "none of Discrete"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), "none of MultiDiscrete"),
        (spaces.MultiDiscrete([2, 3]), np.array([1]), r"has shape \(1,\), its space says \(2,\)"),
        (spaces.MultiBinary(2), np.array([1, 2]), "none of MultiBinary"),
        (spaces.MultiBinary(2), np.array([0.5, 1]), "none of MultiBinary"),
        (_BYTES, np.full((8, 8, 3), 0.5), r"float64 from 0\.5 to 0\.5, its space says uint8"),
        (_BYTES, np.full((8, 8, 3), -1), "its space says uint8"),
        (_BYTES, np.full((8, 8, 3), 256), "its space says uint8"),
        (_BYTES, np.ones((8, 8, 3), bool), "bool from True to True, its space says uint8"),
        (_BYTES, np.zeros((8, 8), np.uint8), r"shape \(8, 8\), its space says \(8, 8, 3\)"),
        (_BYTES, np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\), its space says \(8, 8, 3\)"),
    ],
)
def test_an_observation_unlike_its_space_is_refused_by_name(space: Any, observation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"Given-v0: .*{message}"):
        make(space=space, see=lambda: observation).reset()


@pytest.mark.parametrize(
    ("space", "observation", "expected"),
    [
        (spaces.Box(-1, 1, (1,)), 0.5, [0.5]),
        (spaces.Box(-1, 1, ()), np.array([0.5]), [0.5]),
        (spaces.Box(-1, 1, (2,)), [0, 1], [0.0, 1.0]),
        (spaces.Discrete(3), np.int8(1), [0.0, 1.0, 0.0]),
        (spaces.MultiBinary(2), np.array([True, False]), [1.0, 0.0]),
        (spaces.Box(0, 255, (1, 1, 2), np.uint8), np.array([[[3, 255]]]), [[[3, 255]]]),
        (spaces.Box(0, 255, (2, 3, 1), np.uint8), np.arange(6).reshape(2, 3), [[[0, 1, 2], [3, 4, 5]]]),
        (spaces.Box(0, 255, (1, 2, 3), np.uint8), np.arange(6).reshape(2, 3), [[[0, 1, 2], [3, 4, 5]]]),
        (spaces.Discrete(3, start=-1), np.uint8(1), [0.0, 0.0, 1.0]),
        (spaces.Discrete(3, start=-1), [-1], [1.0, 0.0, 0.0]),
        (spaces.MultiDiscrete([[2, 1]], start=[[4, 7]]), [[5, 7]], [0.0, 1.0, 1.0]),
        (spaces.MultiBinary((1, 2)), [[1, 0]], [1.0, 0.0]),
        (spaces.Box(-1, 1, (2,), np.float16), torch.tensor([0.5, 7.0]), [0.5, 7.0]),
    ],
)
def test_what_can_only_mean_one_thing_is_taken(space: Any, observation: Any, expected: Any) -> None:
    assert make(space=space, see=lambda: observation).reset()["observation"].tolist() == expected


class OldStep(Given):
    def step(self, action: Any) -> Any:
        return self.see(), 1.0, False, {}


class OldReset(Given):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.see()


class Unseeded(Given):
    def reset(self) -> Any:  # type: ignore[override]
        return self.see(), {}


class Optionless(Given):
    def reset(self, *, seed: int | None = None) -> Any:  # type: ignore[override]
        return self.see(), {}


class Nothing(Given):
    def step(self, action: Any) -> Any:
        return None


def passing(env: Any) -> Any:
    """Under wrappers that take apart what they pass on."""
    return gymnasium.wrappers.ClipReward(gymnasium.wrappers.TransformObservation(env, lambda seen: seen, None), -5, 5)


@pytest.mark.parametrize("under", [lambda env: env, passing])
def test_environments_of_the_old_interface_are_told_the_new_one(under: Callable[[Any], Any]) -> None:
    for old in (OldStep, Nothing):
        with pytest.raises(ValueError, match=r"Given-v0: step gave .* returns \(observation, reward, terminated"):
            make(lambda old=old: under(old())).rollout(2)
    for old in (OldReset, Unseeded, Optionless):
        with pytest.raises(ValueError, match=r"Given-v0: reset .* returns \(observation, info\)"):
            make(lambda old=old: under(old())).reset()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("not enough values to unpack (expected 5, got 4)"),
        TypeError("draw() got an unexpected keyword argument 'seed'"),
        KeyError("gear"), AttributeError("wheel"), AssertionError("no"), RuntimeError("engine"), NotImplementedError(),
    ],
)  # fmt: skip
def test_an_environment_s_own_errors_stay_its_own(error: Exception) -> None:
    def fail(self: Any, *_: Any, **__: Any) -> Any:
        raise error

    parts = {"step": fail, "reset": fail, "render": fail, "__init__": fail}
    for part in parts:
        kind = type("Faulty", (Given,), {part: parts[part]})
        with pytest.raises(type(error)) as caught:
            make(kind, pixels=part == "render").rollout(2)
        raised: BaseException | None = caught.value
        assert raised is error or raised.__cause__ is error  # gymnasium.make says it again
        trace = error.__traceback__
        assert trace is not None
        while trace.tb_next is not None:
            trace = trace.tb_next
        assert trace.tb_frame.f_code.co_name == "fail"


@pytest.mark.parametrize("flag", [True, False, np.bool_(True), 0, 1, np.array([True]), np.array([[0]]), [1.0]])
def test_one_truth_value_ends_an_episode_in_whatever_shape(flag: Any) -> None:
    class Ends(Given):
        def step(self, action: Any) -> Any:
            return self.see(), 1.0, flag, flag, {}

    last = make(Ends).rollout(1)["next"]
    expected = bool(np.asarray(flag).item())
    assert (last["terminated"].item(), last["truncated"].item()) == (expected, expected)


@pytest.mark.parametrize("flag", [None, "False", np.zeros(2), np.zeros(0), 0.5, 2, {}, float("nan")])
def test_anything_else_is_refused_as_the_end_of_an_episode(flag: Any) -> None:
    class Ends(Given):
        def step(self, action: Any) -> Any:
            return self.see(), 1.0, False, flag, {}

    with pytest.raises(ValueError, match=r"Given-v0 gave truncated = .*one truth value is expected"):
        make(Ends).rollout(1)


class Informed(Given):
    """Tells `info` at every step."""

    def __init__(self, info: Any, render_mode: str | None = None) -> None:
        super().__init__()
        self.info = info

    def step(self, action: Any) -> Any:
        return self.see(), 1.0, False, False, self.info


@pytest.mark.parametrize(
    ("info", "succeeded"),
    [
        (None, None),
        ({}, None),
        ({"success": None}, None),
        ({"success": np.array([1.0])}, True),
        ({"is_success": np.bool_(False)}, False),
        ({"success": False, "is_success": True}, True),
        ({"observation": 3, "reward": None, "next": object(), "_reset": [1, [2]], 7: np.zeros(3)}, None),
    ],
)
def test_an_info_may_hold_anything_and_its_success_is_read(info: Any, succeeded: bool | None) -> None:
    env = make(Informed, info=info)
    rows = env.rollout(2)
    assert env.base_env._env.succeeded is succeeded
    assert set(rows["next"].keys()) == {"observation", "reward", "done", "terminated", "truncated", "is_init"}
    assert rows["next", "reward"].flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ([1], r"step gave the info \[1\]; a dictionary is expected"),
        ({"success": np.zeros(2)}, r"gave info\['success'\] = .*one truth value"),
        ({"is_success": {"door": True}}, r"gave info\['is_success'\] = .*one truth value"),
    ],
)
def test_an_info_that_cannot_be_read_is_refused(info: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"Given-v0.* {message}"):
        make(Informed, info=info).rollout(1)


def test_a_constructor_s_arguments_belong_to_the_registration() -> None:
    class Sized(Given):
        def __init__(self, size: int) -> None:
            super().__init__()

    with pytest.raises(ValueError, match=r"missing 1 required positional argument: 'size'.* kwargs="):
        make(Sized)
    with pytest.raises(ValueError, match=r'takes render_mode="rgb_array"'):
        make(Sized, pixels=True, size=3)


def test_specs_are_not_taken_of_an_environment_of_gymnasium() -> None:
    with pytest.raises(TypeError, match=r"The environment is a Given, .*make_env of it .*GymWrapper"):
        specs_of(Given())  # type: ignore[arg-type]


@pytest.mark.parametrize("observation", [np.zeros(1, np.float32), np.zeros((3, 2)), None, [0.0, [1.0]]])
def test_an_observation_to_be_rescaled_is_held_to_its_space_before(observation: Any) -> None:
    with pytest.raises(ValueError, match=r"Given: the observation (has shape|is)"):
        make_env(Given(see=lambda: observation), time_limit=5, rescale_observations=True).reset()


def test_an_environment_without_a_space_is_refused() -> None:
    class Bare(gymnasium.Env[Any, Any]):
        pass

    with pytest.raises(ValueError, match=r"^Bare: 'action' is None"):
        make_env(Bare(), time_limit=5)
    Bare.action_space = spaces.Discrete(2)
    with pytest.raises(ValueError, match=r"^Bare: the observation 'observation' is None"):
        make_env(Bare(), time_limit=5)


def test_an_action_that_has_an_observation_s_name_is_refused() -> None:
    for part in ("state", "observation"):
        env = Given(space=spaces.Dict({part: spaces.Box(-1, 1, (2,))}))
        env.action_space = spaces.Dict({"observation": spaces.Discrete(2), "b": spaces.Discrete(2)})
        with pytest.raises(ValueError, match=r"Given: \['observation'\] name both an action and an observation"):
            make_env(env, time_limit=5)


def test_an_image_of_three_columns_keeps_its_name() -> None:
    env = make_env(
        Given(space=spaces.Box(0, 255, (2, 4, 3), np.uint8), see=lambda: np.zeros((2, 4, 3), np.uint8)), time_limit=5
    )
    assert set(env.observation_spec.keys()) == {"observation", "is_init"}


def test_an_observation_without_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="the observation 'a' has no numbers"):
        make(space=spaces.Dict({"a": spaces.Box(-1, 1, (0,)), "b": spaces.Box(-1, 1, (2,))}))
