"""What a simulator gives, held to what it says of itself; who wrote it learns here what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces

from worldloom_rl.specs.spaces import Space

ObservationT = TypeVar("ObservationT")
Simulator = gymnasium.Env[Any, Any]  # observations and actions are as their author made them
Info = dict[str, object]
Step = tuple[ObservationT, float, bool, bool, Info]  # observation, reward, terminated, truncated, info


def reset_simulator(name: str, env: Simulator, seed: int | None, options: Info | None) -> tuple[object, Info]:
    """Observation and info. Raises ValueError for a reset of an older interface."""
    given = env.reset(seed=seed, options=options)
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict)):
        raise ValueError(
            f"{name}: reset gave a {type(given).__name__}; gymnasium's reset returns (observation, info), the latter a "
            "dictionary: mend the environment, or wrap it for gymnasium (shimmy)."
        )
    return given


def step_simulator(name: str, env: Simulator, action: object) -> Step[object]:
    """Observation, reward, terminated, truncated, info. Raises ValueError for a step of an older interface."""
    try:
        observation, reward, terminated, truncated, info = env.step(action)
    except ValueError as error:
        if "values to unpack" not in str(error):  # a wrapper's of gymnasium or the line above
            raise
        raise ValueError(
            f"{name}: step gave another number of values ({error}); gymnasium's step returns (observation, reward, "
            "terminated, truncated, info): mend the environment, or wrap it for gymnasium (shimmy)."
        ) from error
    return observation, read_reward(name, reward), bool(terminated), bool(truncated), info


def read_reward(name: str, reward: object) -> float:
    """The one number that it holds, in whatever shape. Raises ValueError for anything else."""
    try:
        number: float | None = np.asarray(reward).astype(float).item() if reward is not None else None
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise ValueError(
            f"{name} gave the reward {reward!r}; one number is expected: mend the environment, or register it under a "
            "wrapper that makes one number of it (gymnasium.wrappers.TransformReward)."
        )
    return number


def check_observation(name: str, space: Space, observation: object, key: tuple[str, ...] = ()) -> None:
    """Raise ValueError for an observation that is not one of its space in form: another shape, a missing part, …"""
    leaf = f"the observation {'.'.join(key)!r}" if key else "the observation"
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, Mapping):
            raise ValueError(f"{name}: {leaf} is a {type(observation).__name__}, its space a dictionary: {space}.")
        missing = sorted(set(space) - set(observation))
        if missing:
            raise ValueError(f"{name}: {leaf} lacks {missing}, which its space names; it has {sorted(observation)}.")
        for part, below in space.items():
            check_observation(name, below, observation[part], (*key, part))
        return
    array = np.asarray(observation)
    if array.shape != space.shape and not array.size == np.prod(space.shape or ()) == 1:
        raise ValueError(f"{name}: {leaf} has shape {array.shape}, its space says {space.shape}: mend one of them.")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: {leaf} is {observation!r:.80}, its space {space}: mend one of them.")
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        low = np.asarray(space.start)
        limit = low + (space.n if isinstance(space, spaces.Discrete) else space.nvec)
        if array.dtype.kind == "f" or bool((array < low).any() or (array >= limit).any()):
            raise ValueError(f"{name}: {leaf} is {observation!r:.80}, none of {space}: mend one of them.")
    elif space.dtype == np.uint8 and array.ndim == 3 and not _are_bytes(array):
        raise ValueError(
            f"{name}: {leaf} is {array.dtype} from {array.min()} to {array.max()}, its space says uint8, 0 to 255: "
            "give bytes, or a space of real numbers."
        )


def _are_bytes(image: np.ndarray) -> bool:
    """Whether these become bytes without loss of what they mean."""
    return image.dtype == np.uint8 or (image.dtype.kind != "f" and bool((image >= 0).all() and (image <= 255).all()))


def read_frame(name: str, frame: object) -> np.ndarray:
    """uint8 [3, height, width] of a rendered frame [height, width, 3]. Raises ValueError for anything else."""
    array = np.asarray(frame)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
        given = "None" if frame is None else f"{array.dtype} of shape {array.shape}"
        raise ValueError(
            f'{name}: render() gave {given} with render_mode="rgb_array"; an array [height, width, 3] of bytes is '
            "expected: mend render, or leave pixels off."
        )
    return np.moveaxis(array, -1, 0)
