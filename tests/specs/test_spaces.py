"""Spaces at their edges, as models see them and as simulators get their actions; recorded observations held to them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldloom_rl.keys import RESERVED
from worldloom_rl.specs.observed import convert_episode, observation_reader
from worldloom_rl.specs.spaces import (
    action_block_space,
    action_space_of,
    is_text,
    observation_space_of,
    simulator_action,
    texts,
)

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(10**12), spaces.Discrete(2**62), spaces.MultiDiscrete([2**62, 2**62]),
        spaces.MultiDiscrete([2**15] * 3), spaces.Dict({"a": spaces.Discrete(2**17)}),
    ],
)  # fmt: skip
def test_huge_choices_are_refused_before_memory_is_taken(space: Any) -> None:
    for refuse in (observation_space_of, action_space_of):
        with pytest.raises(ValueError, match=r"Mine: .*numbers of it; at most 65536 are taken"):
            refuse("Mine", space)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(4), spaces.Sequence(BOX), spaces.Graph(BOX, None), spaces.Tuple([BOX]), spaces.OneOf([BOX]),
        spaces.Dict({}), None, object(),
    ],
    ids=["text", "sequence", "graph", "tuple", "one of", "empty", "none", "object"],
)  # fmt: skip
def test_spaces_that_are_no_numbers_are_refused_by_name(space: Any) -> None:
    with pytest.raises(ValueError, match=r"^Mine: the observation 'observation' is .*not numbers of a fixed shape"):
        observation_space_of("Mine", space)
    with pytest.raises(ValueError, match=r"^Mine: 'action' is .*a Discrete, a flat MultiDiscrete, a real Box"):
        action_space_of("Mine", space)
    if isinstance(space, gymnasium.Space) and not is_text(space):
        with pytest.raises(ValueError, match=r"^Mine: the observation 'a\.b' is .*not numbers"):
            observation_space_of("Mine", spaces.Dict({"a": spaces.Dict({"b": space}), "c": BOX}))


def test_texts_beside_other_observations_are_left_out() -> None:
    space = spaces.Dict({"a": spaces.Dict({"b": spaces.Text(4)}), "c": BOX, "d": spaces.Text(4)})
    assert texts(space) == ["a.b", "d"]
    assert set(observation_space_of("Mine", space)) == {"c"}
    reserved = spaces.Dict({"c": BOX, "reward": spaces.Text(4), "shape": spaces.Text(4)})
    assert set(observation_space_of("Mine", reserved)) == {"c"}  # a text's name stands in nobody's way
    renamed = spaces.Dict({"inner": spaces.Dict({"state": BOX, "observation": spaces.Text(4)})})
    with pytest.raises(ValueError, match=r"'inner.state' would be renamed"):
        observation_space_of("Mine", renamed)
    read = observation_reader("Mine", space)
    assert set(read({"a": {"b": "go"}, "c": np.zeros(BOX.shape), "d": "on"})) == {"c"}
    with pytest.raises(ValueError, match=r"lacks \['d'\].* the space has \['a', 'c', 'd'\]"):
        read({"a": {"b": "go"}, "c": np.zeros(BOX.shape)})


@pytest.mark.parametrize("shape", [(0,), (2, 0), (16, 16, 0), (0, 16, 16, 3)])
def test_a_box_without_numbers_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="has no numbers"):
        observation_space_of("Mine", spaces.Box(0, 1, shape))
    with pytest.raises(ValueError, match="'action' is Box"):
        action_space_of("Mine", spaces.Box(0, 1, shape))


@pytest.mark.parametrize(
    ("space", "seen"),
    [
        (spaces.Discrete(1), spaces.Discrete(1)),
        (spaces.Discrete(3, start=-7), spaces.Discrete(3)),
        (spaces.MultiDiscrete([5]), spaces.Discrete(5)),
        (spaces.MultiDiscrete([1], start=[4]), spaces.Discrete(1)),
        (spaces.MultiDiscrete([1, 4], start=[3, -1]), spaces.MultiDiscrete([1, 4])),
        (spaces.MultiDiscrete([3, 3], dtype=np.int32), spaces.MultiDiscrete([3, 3])),
        (spaces.Box(-1.0, 1.0, (), np.float32), spaces.Box(-1.0, 1.0, (1,), np.float32)),
        (spaces.Box(-0.1, 0.3, (2, 2), np.float64), spaces.Box(np.float32(-0.1), np.float32(0.3), (2, 2), np.float32)),
        (spaces.Box(-0.1, 0.3, (2,), np.float16), None),
        (spaces.Box(-0.1, 0.3, (), np.float64), None),
    ],
)
def test_an_action_of_the_agent_is_one_of_the_simulator(space: Any, seen: Any) -> None:
    made: Any = action_space_of("Mine", space)
    assert seen is None or made == seen
    made.seed(0)
    extremes = [made.low, made.high] if isinstance(made, spaces.Box) else []
    for action in [*(made.sample() for _ in range(20)), *extremes]:
        kept = np.array(action)
        taken = simulator_action(space, action)
        assert space.contains(taken), taken
        assert isinstance(taken, np.ndarray) or not isinstance(space, spaces.Box)
        if isinstance(taken, np.ndarray) and taken.ndim:
            taken[...] = 0  # a simulator may change what it is given
        np.testing.assert_array_equal(action, kept)


def test_a_block_of_scalar_actions_reaches_the_simulator_one_by_one() -> None:
    scalar = spaces.Box(-1.0, 1.0, (), np.float32)
    block = action_block_space("Mine", action_space_of("Mine", scalar), 3)
    assert block == spaces.Box(-1.0, 1.0, (3,), np.float32)
    taken = simulator_action(scalar, np.array([0.5], np.float32))
    assert isinstance(taken, np.ndarray)
    assert (taken.shape, float(taken)) == ((), 0.5)


def test_a_dictionary_of_one_action_is_one_although_it_comes_without_its_name() -> None:
    space = spaces.Dict({"arm": spaces.Dict({"joint": spaces.Discrete(3, start=1)})})
    assert simulator_action(space, np.int64(2)) == {"arm": {"joint": 3}}


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, np.inf), (-np.inf, 0.0), (-1e300, 1e300), (0.0, 1e39)])
def test_an_action_without_bounds_in_float32_is_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="planning needs finite ones"):
        action_space_of("Mine", spaces.Box(*bounds, (2,), np.float64))


@pytest.mark.parametrize("name", [*sorted(RESERVED - {"action"}), "shape", "device", ""])
def test_an_action_whose_name_would_be_lost_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"Mine: the action '{name}' has .*TransformAction"):
        action_space_of("Mine", spaces.Dict({name: BOX, "b": BOX}))


def test_an_action_that_torchrl_would_rename_is_refused() -> None:
    for space in (spaces.Dict(state=BOX), spaces.Dict(arm=spaces.Dict(state=BOX, b=BOX))):
        with pytest.raises(ValueError, match="state' would be renamed to 'observation' by TorchRL; rename it"):
            action_space_of("Mine", space)
    assert action_space_of("Mine", spaces.Dict(state=BOX, observation=BOX))


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, np.inf), (-np.inf, 1.0), (-1e300, 1e300)])
def test_bounds_of_real_observations_are_not_held(bounds: tuple[float, float]) -> None:
    space = spaces.Box(*bounds, (2,), np.float64)
    assert observation_space_of("Mine", space) == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert observation_reader("Mine", space)(np.array([-7.0, 7.0])).tolist() == [-7.0, 7.0]


def test_a_recorded_episode_is_held_to_its_space_row_by_row() -> None:
    space = spaces.Dict({"image": spaces.Box(0, 255, (8, 9, 3), np.uint8), "gear": spaces.Discrete(3, start=1)})
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 9, 3)).astype(np.uint8)
    rows = {"image": images, "gear": np.array([1, 3, 2, 1])}
    found = convert_episode("minari:mine", space, rows)
    np.testing.assert_array_equal(found["image"], images.transpose(0, 3, 1, 2))
    assert found["gear"].argmax(-1).tolist() == [0, 2, 1, 0]
    for wrong, said in (
        ({**rows, "gear": np.array([1, 3, 0, 1])}, "the observation 'gear' is .*none of Discrete"),
        ({**rows, "image": images / 255.0}, "the observation 'image' is float64"),
        ({**rows, "image": images.transpose(0, 3, 1, 2)}, r"the observation 'image' has shape \(3, 8, 9\)"),
        ({"image": images}, r"the observation lacks \['gear'\]"),
    ):
        with pytest.raises(ValueError, match=f"minari:mine: {said}"):
            convert_episode("minari:mine", space, wrong)
