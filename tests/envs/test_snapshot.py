"""An environment put back where another stood goes on exactly like it; what cannot be kept is named."""

from __future__ import annotations

import ctypes
import json
from collections import Counter
from enum import IntEnum
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase, GymWrapper

from worldloom_rl.envs import make_env
from worldloom_rl.envs.snapshot import CannotKeep, environment_state, restore_environment

KEPT = [
    ("CartPole-v1", {}), ("CartPole-v1", {"num_envs": 3}), ("CartPole-v1", {"time_limit": 25, "action_repeat": 2}),
    ("CartPole-v1", {"pixels": True, "frame_stack": 2}), ("Pendulum-v1", {}), ("Acrobot-v1", {}),
    ("MountainCarContinuous-v0", {}), ("worldloom/Catch-v0", {}), ("dmc:cartpole-balance", {"action_repeat": 2}),
    ("dmc:finger-spin", {"time_limit": 30}), ("Hopper-v5", {}),
]  # fmt: skip
IN_PROCESSES = pytest.param(
    "CartPole-v1", {"num_envs": 2, "parallel": True}, marks=pytest.mark.process, id="CartPole-v1-processes"
)


def play(env: EnvBase, td: TensorDictBase, steps: int = 40) -> TensorDict:
    """What comes of the same random actions, also over the ends of episodes."""
    torch.manual_seed(5)
    rows = []
    for _ in range(steps):
        arrived, td = env.step_and_maybe_reset(env.rand_action(td))
        rows.append(arrived["next"].clone())
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("name", "options"),
    [*(pytest.param(name, options, id=f"{name}-{len(options)}") for name, options in KEPT), IN_PROCESSES],
)
def test_an_environment_goes_on_where_another_stood(name: str, options: dict[str, Any]) -> None:
    if name.startswith("dmc:"):
        pytest.importorskip("dm_control")
    if name.startswith("Hopper"):
        pytest.importorskip("mujoco")
    one, other = make_env(name, seed=0, **options), make_env(name, seed=77, **options)
    torch.manual_seed(0)
    there = one.rollout(17, break_when_any_done=False)[..., -1]["next"].exclude("reward")
    if there["done"].any():
        there = one.reset(TensorDict({"_reset": there["done"]}, batch_size=one.batch_size).update(there))
    state = json.loads(json.dumps(environment_state(one)))
    expected = play(one, there.clone())
    other.rollout(3)
    restore_environment(other, state)
    found = play(other, there.clone())
    one.close()
    other.close()
    assert all(torch.equal(found[key], expected[key]) for key in expected.keys(True, True))


class Odd(gymnasium.Env[np.ndarray, np.ndarray]):
    """An environment that holds something."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, held: dict[str, Any]) -> None:
        vars(self).update(held)


def wrapped(**held: Any) -> EnvBase:
    return GymWrapper(Odd(held))


class Place(NamedTuple):
    row: int
    column: int


class Phase(IntEnum):
    WAIT = 0
    GO = 1


def cannot_be_kept() -> dict[str, tuple[dict[str, Any], str]]:
    array, items = np.zeros(4), [1, 2]
    return {
        "a compiled object": ({"clock": ctypes.c_int(3)}, r"Odd\.clock is of type ctypes\.c_int"),
        "an iterator": ({"levels": iter([1])}, r"Odd\.levels is of type builtins\.list_iterator"),
        "a named tuple": ({"place": Place(1, 2)}, r"Odd\.place is of type .*Place"),
        "a dictionary of its own kind": ({"counts": Counter("ab")}, r"Odd\.counts is of type collections\.Counter"),
        "an array of objects": ({"grid": np.array([object()])}, r"Odd\.grid is an array of dtype object"),
        "a view": ({"grid": array, "row": array[1:]}, r"Odd\.row and Odd\.grid are views of the same memory"),
        "two names of a list": ({"all": items, "seen": items}, r"Odd\.seen and Odd\.all are one and the same list"),
    }


@pytest.mark.parametrize("case", sorted(cannot_be_kept()))
def test_what_cannot_be_kept_is_named(case: str) -> None:
    held, message = cannot_be_kept()[case]
    with pytest.raises(CannotKeep, match=message):
        environment_state(wrapped(**held))


class World:
    def __init__(self, level: int) -> None:
        self.level = level
        self.seen: dict[tuple[int, int], np.float32] = {(0, level): np.float32(0.1)}
        self.random = np.random.default_rng(level)


def test_objects_keys_and_scalars_come_back_as_they_were_and_in_place() -> None:
    one, world = World(3), World(8)
    other = wrapped(world=world, best=0, phase=Phase.WAIT, history=[])
    state = environment_state(wrapped(world=one, best=np.float32(0.1), phase=Phase.GO, history=[(1, "a"), None]))
    restore_environment(other, json.loads(json.dumps(state)))
    assert other._env.world is world
    assert (world.level, world.seen) == (3, {(0, 3): np.float32(0.1)})
    assert type(world.seen[0, 3]) is type(other._env.best) is np.float32
    assert other._env.phase is Phase.GO
    assert other._env.history == [(1, "a"), None]
    assert world.random.random() == one.random.random()


def test_another_environment_is_refused() -> None:
    state = environment_state(make_env("CartPole-v1", seed=0))
    with pytest.raises(CannotKeep, match="was a CartPoleEnv and is now a PendulumEnv"):
        restore_environment(make_env("Pendulum-v1", seed=0), state)
    with pytest.raises(CannotKeep, match="1 environments were kept, 2 are to be restored"):
        restore_environment(make_env("CartPole-v1", num_envs=2, seed=0), state)
