"""What simulators give that they did not promise: taken as it was meant, or refused by the environment's name."""

from __future__ import annotations

from collections.abc import Callable
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
        self.observation_space = space or spaces.Box(-1.0, 1.0, (2,), np.float32)
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


@pytest.mark.parametrize("reward", [1, np.float64(1), np.array(1.0), np.array([1.0]), np.array([[1]]), [1.0], True])
def test_one_number_is_a_reward_in_whatever_shape(reward: Any) -> None:
    assert make(reward=reward).rollout(2)["next", "reward"].tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("reward", [None, "much", np.zeros(2), np.zeros(0), [1.0, 2.0], {"a": 1.0}])
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
        (None, None, r"the observation has shape \(\), its space says \(2,\)"),
        (None, np.array(["a", "b"]), "mend one of them"),
        (_DICT, {"a": np.zeros(2)}, r"the observation lacks \['b'\]"),
        (_DICT, {"a": np.zeros(2), "b": {}}, r"the observation 'b' lacks \['c'\]"),
        (_DICT, {"a": np.zeros(2), "b": {"c": np.zeros(3)}}, r"the observation 'b\.c' has shape \(3,\)"),
        (_DICT, np.zeros(2), "is a ndarray, its space a dictionary"),
        (spaces.Discrete(5), np.float32(2.0), r"none of Discrete\(5\)"),
        (spaces.Discrete(5), 5, r"none of Discrete\(5\)"),
        (spaces.Discrete(5, start=1), 0, "none of Discrete"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), "none of MultiDiscrete"),
        (_BYTES, np.full((8, 8, 3), 0.5), r"float64 from 0\.5 to 0\.5, its space says uint8"),
        (_BYTES, np.full((8, 8, 3), -1), "its space says uint8"),
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


class Narrow(Given):
    def step(self, action: Any) -> Any:
        raise ValueError("my own fault")


def test_environments_of_the_old_interface_are_told_the_new_one() -> None:
    with pytest.raises(ValueError, match=r"Given-v0: step gave .* returns \(observation, reward, terminated"):
        make(OldStep).rollout(2)
    with pytest.raises(ValueError, match=r"Given-v0: reset gave a ndarray; .* returns \(observation, info\)"):
        make(OldReset).reset()
    with pytest.raises(ValueError, match=r"^my own fault$"):
        make(Narrow).rollout(2)


@pytest.mark.parametrize(
    "frame", [None, np.zeros((8, 9), np.uint8), np.zeros((8, 9, 4), np.uint8), np.full((8, 9, 3), 0.4)]
)
def test_frames_that_are_no_bytes_of_three_colours_are_refused(frame: Any) -> None:
    with pytest.raises(ValueError, match=r"Given-v0: render\(\) gave .* \[height, width, 3\] of bytes is expected"):
        make(frame=frame, pixels=True).reset()


def test_a_constructor_s_arguments_belong_to_the_registration() -> None:
    class Sized(Given):
        def __init__(self, size: int) -> None:
            super().__init__()

    with pytest.raises(ValueError, match=r"missing 1 required positional argument: 'size'.* kwargs="):
        make(Sized)
    with pytest.raises(ValueError, match=r'takes render_mode="rgb_array"'):
        make(Sized, pixels=True, size=3)


def test_an_object_in_the_place_of_a_name_is_told_what_to_do() -> None:
    for thing in (Given(), lambda: Given()):
        with pytest.raises(TypeError, match=r"make_env takes the name of an environment, .* register it first"):
            make_env(thing)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"The environment is a Given; .* GymWrapper"):
        specs_of(Given())  # type: ignore[arg-type]


def test_an_observation_without_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="the observation 'a' has no numbers"):
        make(space=spaces.Dict({"a": spaces.Box(-1, 1, (0,)), "b": spaces.Box(-1, 1, (2,))}))
