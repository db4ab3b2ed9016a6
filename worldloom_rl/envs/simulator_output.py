"""What a simulator gives, held to what gymnasium asks of it; who wrote it learns here what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import gymnasium
import numpy as np

ObservationT = TypeVar("ObservationT")
Simulator = gymnasium.Env[Any, Any]  # observations and actions are as their author made them
Info = dict[str, object]
Step = tuple[ObservationT, float, bool, bool, Info]  # observation, reward, terminated, truncated, info

_REMEDY = "mend the environment, or wrap it for gymnasium (shimmy)."


def reset_simulator(name: str, env: Simulator, seed: int | None, options: Info | None) -> tuple[object, Info]:
    """Observation and info. Raises ValueError for a reset of an older interface; other errors are the simulator's."""
    try:
        given = env.reset(seed=seed, options=options)
    except (TypeError, ValueError) as error:
        said = str(error)
        older = "reset() got an unexpected keyword argument" in said or ("unpack" in said and not raised_below(error))
        if not older:
            raise
        raise ValueError(
            f"{name}: reset is of an older interface ({said}); gymnasium's reset takes (*, seed=None, options=None) "
            f"and returns (observation, info): {_REMEDY}"
        ) from error
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping | None)):
        what = (
            f"({', '.join(type(part).__name__ for part in given)})"
            if isinstance(given, tuple)
            else type(given).__name__
        )
        raise ValueError(
            f"{name}: reset gave a {what}; gymnasium's reset returns (observation, info), the latter a dictionary: "
            f"{_REMEDY}"
        )
    return given[0], dict(given[1] or {})


def step_simulator(name: str, env: Simulator, action: object) -> Step[object]:
    """Observation, reward, terminated, truncated, info.

    Raises ValueError for a step of an older interface, or where one of these is not what it should be; other errors are
    the simulator's.
    """
    try:
        observation, reward, terminated, truncated, info = env.step(action)
    except (TypeError, ValueError) as error:
        if raised_below(error) or "unpack" not in str(error):
            raise
        raise ValueError(
            f"{name}: step gave another number of values ({error}); gymnasium's step returns (observation, reward, "
            f"terminated, truncated, info): {_REMEDY}"
        ) from error
    if not isinstance(info, Mapping | None):
        raise ValueError(f"{name}: step gave the info {info!r:.80}; a dictionary is expected: {_REMEDY}")
    ended = read_flag(name, "terminated", terminated), read_flag(name, "truncated", truncated)
    return observation, read_reward(name, reward), *ended, dict(info or {})


def raised_below(error: BaseException) -> bool:
    """Whether the error comes from the simulator's own lines, not from gymnasium's or ours that call it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    callers = ("gymnasium.core", "gymnasium.wrappers", "gymnasium.envs.registration", "worldloom_rl.envs")
    return not module.startswith(callers)


def read_reward(name: str, reward: object) -> float:
    """The one number that it holds, in whatever shape. Raises ValueError for anything else."""
    if type(reward) is float:
        return reward
    number = _only_number(reward)
    if number is None:
        raise ValueError(
            f"{name} gave the reward {reward!r:.80}; one number is expected: mend the environment, or register it "
            "under a wrapper that makes one number of it (gymnasium.wrappers.TransformReward)."
        )
    return number


def read_flag(name: str, what: str, flag: object) -> bool:
    """The one truth value that it holds, in whatever shape, also as 0 or 1. Raises ValueError for anything else."""
    if type(flag) is bool:
        return flag
    number = _only_number(flag)
    if number not in (0.0, 1.0):
        raise ValueError(f"{name} gave {what} = {flag!r:.80}; one truth value is expected: mend the environment.")
    return bool(number)


def _only_number(value: object) -> float | None:
    """The number of a number, or of whatever holds one only; else None."""
    try:
        array = np.asarray(value)
        if value is None or array.dtype.kind not in "biufO" or array.size != 1:
            return None
        only = array.item()
        return None if isinstance(only, str | bytes) else float(only)
    except (TypeError, ValueError, RuntimeError):  # lists of unequal length, tensors that need a gradient, objects
        return None
