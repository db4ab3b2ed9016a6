"""Gymnasium spaces in the one form that models read: of environments, and of recorded data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch.nn import functional as F

from worldloom_rl import keys

Space = spaces.Space[object]

# Composite takes its leaves and these by name in one call, and "_reset" tells TorchRL which environments to reset.
_OF_TORCHRL = frozenset({"shape", "batch_size", "device", "names", "data_cls", "step_mdp_static", "_reset"})


def action_space_of(name: str, space: Space, key: str = keys.ACTION) -> Space:
    """The action space as the agent sees it: float32 boxes with finite bounds, discrete actions counted from zero."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({part: action_space_of(name, leaf, part) for part, leaf in space.items()})
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(space.n)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return spaces.MultiDiscrete(space.nvec)
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"{name}: {key!r} is {space}; a Discrete, a flat MultiDiscrete, a real Box or a Dict of them is expected. "
            "Register the environment under gymnasium.wrappers.TransformAction, which gives it such a space."
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(
            f"{name}: {key!r} has the bounds low={space.low}, high={space.high}; planning needs finite ones. "
            "Register the environment with bounds, for example under "
            "gymnasium.wrappers.TransformAction(env, lambda action: action, Box(-1.0, 1.0, shape))."
        )
    return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def action_block_space(name: str, space: Space, length: int) -> Space:
    """The space of `length` actions that are given as one [length · A]; discrete ones are a MultiDiscrete."""
    if length == 1:
        return space
    if isinstance(space, spaces.Discrete):
        return spaces.MultiDiscrete([space.n] * length)
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(np.tile(space.nvec, length))
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return spaces.Box(np.tile(space.low, length), np.tile(space.high, length), dtype=np.float32)
    raise ValueError(f"{name}: actions of {space} cannot be given in blocks of {length}; a flat one can.")


def observation_space_of(name: str, space: Space, key: tuple[str, ...] = ()) -> Space:
    """The space of what `convert_observation` makes of an observation."""
    if isinstance(space, spaces.Dict):
        for part in space:
            _check_name(name, key, part, space)
        return spaces.Dict({part: observation_space_of(name, leaf, (*key, part)) for part, leaf in space.items()})
    if isinstance(space, spaces.Box):
        if 0 in space.shape:
            raise ValueError(
                f"{name}: the observation {'.'.join(key) or 'observation'!r} has no numbers: {space}. Leave it out "
                "(gymnasium.wrappers.FilterObservation)."
            )
        if _is_image(space):
            shape = (space.shape[2], *space.shape[:2]) if _channels_last(space) else space.shape
            return spaces.Box(0, 255, shape, np.uint8)
        return spaces.Box(-np.inf, np.inf, space.shape or (1,), np.float32)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return spaces.Box(0.0, 1.0, (spaces.flatdim(space),), np.float32)
    leaf = ".".join(key) or "observation"
    raise ValueError(
        f"{name}: the observation {leaf!r} is {space}, not numbers of a fixed shape. Leave it out or encode it as a "
        "Box (gymnasium.wrappers.FilterObservation, gymnasium.wrappers.TransformObservation)."
    )


def _check_name(name: str, key: tuple[str, ...], part: str, space: spaces.Dict) -> None:
    """Raise ValueError for an observation that would be lost on its way to a model."""
    leaf = ".".join((*key, part))
    if not key and part in keys.RESERVED:
        reason = "has a name of the key contract"
    elif part in _OF_TORCHRL:
        reason = "has a name that TorchRL keeps for itself"
    elif key and part == "state" and "observation" not in space.spaces:
        reason = "would be renamed to 'observation' by TorchRL"  # in its spec, not in its values
    else:
        return
    raise ValueError(
        f"{name}: the observation {leaf!r} {reason}; rename it, for example by registering the environment under "
        "gymnasium.wrappers.TransformObservation."
    )


def _is_image(space: spaces.Box) -> bool:
    """Whether these are bytes in three dimensions; bytes in fewer, such as a console's memory, are numbers."""
    return space.dtype == np.uint8 and len(space.shape) == 3


def _channels_last(space: spaces.Box) -> bool:
    """Whether these are images with their 1, 3 or 4 channels on the last axis."""
    shape = space.shape
    return _is_image(space) and shape[2] in (1, 3, 4) and min(shape[:2]) > shape[2]


def convert_observation(space: Space, observation: Any) -> Any:
    """The observation as fresh arrays: simulators reuse theirs, and TorchRL does not copy."""
    if isinstance(space, spaces.Box):
        if _channels_last(space):
            observation = np.moveaxis(observation, -1, 0)
        array = np.array(observation, dtype=np.uint8 if _is_image(space) else np.float32, order="C")
        return array if array.ndim else array.reshape(1)
    if isinstance(space, spaces.Dict):
        return {part: convert_observation(leaf, observation[part]) for part, leaf in space.items()}
    return np.asarray(spaces.flatten(space, observation), dtype=np.float32)


def convert_episode(space: Space, observation: Any) -> Any:
    """Observations [T, …] of a whole episode, converted one by one as `convert_observation` does."""
    if isinstance(space, spaces.Dict):
        return {part: convert_episode(leaf, observation[part]) for part, leaf in space.items()}
    return np.stack([convert_observation(space, row) for row in observation])


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [*B, C, size, size] of an image [*B, C, height, width], by averaging areas."""
    if image.shape[-2:] == (size, size):
        return np.array(image, dtype=np.uint8)
    # A renderer may hand out a flipped or read-only view, which torch does not take.
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).reshape(-1, *image.shape[-3:])
    resized = F.interpolate(pixels, (size, size), mode="area").round().byte()
    return np.asarray(resized.reshape(*image.shape[:-2], size, size).numpy())
