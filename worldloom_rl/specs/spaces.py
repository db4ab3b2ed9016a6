"""Gymnasium spaces in the one form that models read: of environments, and of recorded data."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
import torch
from gymnasium import spaces
from torch.nn import functional as F

from worldloom_rl import keys
from worldloom_rl.specs.images import image_layout

Space = spaces.Space[object]

# Composite takes its leaves and these by name in one call, and "_reset" tells TorchRL which environments to reset.
_OF_TORCHRL = frozenset({"shape", "batch_size", "device", "names", "data_cls", "step_mdp_static", "_reset"})
_RENAMED = "would be renamed to 'observation' by TorchRL"  # in its spec, not in its values
_WIDEST = 2**16  # numbers of an action, and of an observation's one-hots


# ---------------------------------------------------------------------- actions


def action_space_of(name: str, space: Space | None) -> Space:
    """The action space as the agent sees it: float32 boxes with finite bounds, discrete actions counted from zero.

    A box without dimensions has one number there, a MultiDiscrete of one choice is that Discrete; `simulator_action`
    goes the other way. Raises ValueError for a space that no model acts in, before memory is taken for it.
    """
    return _action_space(name, space, ())


def _action_space(name: str, space: Space | None, key: tuple[str, ...]) -> Space:
    leaf = f"{name}: {'.'.join(key) or keys.ACTION!r}"
    if isinstance(space, spaces.Dict) and len(space):
        for part in space:
            _check_name(name, "action", (*key, part), keys.RESERVED - {keys.ACTION})
            if part == "state" and "observation" not in space.spaces:
                raise ValueError(_rename(name, "action", (*key, part), _RENAMED))
        return spaces.Dict({part: _action_space(name, below, (*key, part)) for part, below in space.items()})
    if isinstance(space, spaces.Discrete):
        _check_width(leaf, space, int(space.n))
        return spaces.Discrete(space.n)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and len(space.nvec):
        _check_width(leaf, space, int(space.nvec.astype(object).sum()))
        # TorchRL 0.14.1 cannot make a spec of a single choice.
        return spaces.Discrete(space.nvec[0]) if len(space.nvec) == 1 else spaces.MultiDiscrete(space.nvec)
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating) or 0 in space.shape:
        raise ValueError(
            f"{leaf} is {shown(space)}; a Discrete, a flat MultiDiscrete, a real Box or a Dict of them is expected. "
            "Register the environment under gymnasium.wrappers.TransformAction, which gives it such a space."
        )
    _check_width(leaf, space, math.prod(space.shape))
    with np.errstate(over="ignore"):
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(
            f"{leaf} has the bounds low={space.low}, high={space.high}; planning needs finite ones. "
            "Register the environment with bounds, for example under "
            "gymnasium.wrappers.TransformAction(env, lambda action: action, Box(-1.0, 1.0, shape))."
        )
    shape = space.shape or (1,)
    return spaces.Box(low.reshape(shape), high.reshape(shape), dtype=np.float32)


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
    raise ValueError(f"{name}: actions of {shown(space)} cannot be given in blocks of {length}; a flat one can.")


def simulator_action(space: Space, action: object) -> object:
    """A fresh member of the simulator's space from an action of the space that `action_space_of` made of it.

    A dictionary may lack the names above its only leaf: TorchRL drops them.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(action, dict):
            ((part, leaf),) = space.items()
            return {part: simulator_action(leaf, action)}
        return {part: simulator_action(leaf, action[part]) for part, leaf in space.items()}
    if isinstance(space, spaces.Discrete):
        return np.asarray(action).reshape(())[()] + space.start
    if isinstance(space, spaces.MultiDiscrete):
        return (np.asarray(action).reshape(space.shape) + space.start).astype(space.dtype)
    if isinstance(space, spaces.Box):
        number = np.array(action, dtype=space.dtype).reshape(space.shape)
        # A bound such as 0.1 is another number in float32, which may be outside.
        return number if space.dtype == np.float32 else np.clip(number, space.low, space.high, out=number)
    return action


# ---------------------------------------------------------------------- observations


def observation_space_of(name: str, space: Space | None) -> Space:
    """The space of what `observation_reader` makes of an observation; texts that stand beside others are left out.

    Raises ValueError for a space that no model reads, before memory is taken for it.
    """
    if isinstance(space, spaces.Dict):
        space = without_texts(space)
        for key, part in _parts(space):
            _check_name(name, "observation", key, keys.RESERVED)
            if len(key) > 1 and key[-1] == "state" and "observation" not in part.spaces:
                raise ValueError(_rename(name, "observation", key, _RENAMED))
    return _observation_space(name, space, ())


def texts(space: Space | None) -> list[str]:
    """The parts of a dictionary that are texts, by their names joined by dots: no model reads them."""
    if not isinstance(space, spaces.Dict):
        return []
    leaves = ((key, within[key[-1]]) for key, within in _parts(space))
    return [".".join(key) for key, leaf in leaves if not isinstance(leaf, spaces.Dict) and is_text(leaf)]


def without_texts(space: spaces.Dict) -> spaces.Dict:
    """The space of what is left when texts are left out; as it is where nothing would be."""
    parts = read_parts(space) or space
    left = {part: without_texts(below) if isinstance(below, spaces.Dict) else below for part, below in parts.items()}
    return spaces.Dict(left)


def read_parts(space: spaces.Dict) -> dict[str, Space]:
    """The parts that models read, by their names: no texts."""
    return {part: below for part, below in space.items() if not is_text(below)}


def is_text(space: Space) -> bool:
    """Whether its members are texts alone, as gymnasium's Text has them and spaces of other packages by their type."""
    if isinstance(space, spaces.Dict):
        return bool(len(space)) and all(is_text(part) for part in space.values())
    return space.dtype is not None and space.dtype.kind == "U"


def _parts(space: spaces.Dict, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], spaces.Dict]]:
    """Every name in a dictionary of dictionaries as a key, and the dictionary that has it."""
    for part, below in space.items():
        yield (*above, part), space
        if isinstance(below, spaces.Dict):
            yield from _parts(below, (*above, part))


def _observation_space(name: str, space: Space | None, key: tuple[str, ...]) -> Space:
    leaf = observation_text(name, key)
    if isinstance(space, spaces.Dict) and read_parts(space):
        return spaces.Dict({part: _observation_space(name, below, (*key, part)) for part, below in space.items()})
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary) and 0 in space.shape:
        raise ValueError(f"{leaf} has no numbers: {shown(space)}. Leave it out (gymnasium.wrappers.FilterObservation).")
    if isinstance(space, spaces.Box):
        layout = image_layout(leaf, space)
        if layout is not None and layout.bytes:
            return spaces.Box(0, 255, layout.shape, np.uint8)
        return spaces.Box(-np.inf, np.inf, layout.shape if layout else space.shape or (1,), np.float32)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        width = one_hot_width(space)
        _check_width(leaf, space, width)
        return spaces.Box(0.0, 1.0, (width,), np.float32)
    raise ValueError(
        f"{leaf} is {shown(space)}, not numbers of a fixed shape. Leave it out or encode it as a Box "
        "(gymnasium.wrappers.FilterObservation, gymnasium.wrappers.TransformObservation), or observe what is rendered "
        "(--pixels)."
    )


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [*B, C, size, size] of an image [*B, C, height, width], by averaging areas."""
    if image.shape[-2:] == (size, size):
        return np.array(image, dtype=np.uint8)
    # A renderer may hand out a flipped or read-only view, which torch does not take.
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).reshape(-1, *image.shape[-3:])
    resized = F.interpolate(pixels, (size, size), mode="area").round().byte()
    return np.asarray(resized.reshape(*image.shape[:-2], size, size).numpy())


def observation_text(name: str, key: tuple[str, ...]) -> str:
    """The observation as messages name it."""
    return f"{name}: the observation {'.'.join(key) or 'observation'!r}"


def one_hot_width(space: spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary) -> int:
    """Numbers of the space's choices as one-hots side by side; a flag is one number."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiBinary):
        return math.prod(space.shape)
    return int(space.nvec.astype(object).sum())  # as whole numbers of any size


# ---------------------------------------------------------------------- both


def _check_name(name: str, what: str, key: tuple[str, ...], reserved: frozenset[str]) -> None:
    """Raise ValueError for a part that would be lost on its way to a model."""
    part = key[-1]
    if not isinstance(part, str) or not part:
        raise ValueError(_rename(name, what, key, "has no text for a name"))
    if len(key) == 1 and part in reserved:
        raise ValueError(_rename(name, what, key, "has a name of the key contract"))
    if part in _OF_TORCHRL:
        raise ValueError(_rename(name, what, key, "has a name that TorchRL keeps for itself"))


def _rename(name: str, what: str, key: tuple[str, ...], reason: str) -> str:
    return (
        f"{name}: the {what} {'.'.join(map(str, key))!r} {reason}; rename it, for example by registering the "
        f"environment under gymnasium.wrappers.Transform{what.title()}."
    )


def _check_width(leaf: str, space: Space, width: int) -> None:
    if width > _WIDEST:
        raise ValueError(
            f"{leaf} is {shown(space)}, which makes {width} numbers of it; at most {_WIDEST} are taken. Give it as "
            "fewer choices or as a Box."
        )


def shown(space: object) -> str:
    """The space as text for a person, with where it comes from if that is not gymnasium."""
    text = re.sub(r" at 0x[0-9a-f]+", "", f"{space}")  # of functions, which differ from run to run
    text = text if len(text) <= 120 else f"{text[:120]}…"
    return text if isinstance(space, spaces.Space) else f"{text} ({type(space).__module__}, not of gymnasium)"
