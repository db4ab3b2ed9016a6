"""The actions that a simulator allows: a forbidden one is played as the next that is allowed, counted around.

That keeps to the mask wherever actions come from, random play, actors and planners alike, and costs nothing where there
is none. To a model a forbidden action is one that does what the next allowed one does, which it learns as anything else
that actions do; so it imagines and plans over all of them. Returns are those of allowed actions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces

from worldloom_rl.specs.spaces import Space

MASK = "action_mask"  # as conventions of gymnasium (in `info`) and of PettingZoo (beside the observation) name it


def read_mask(name: str, space: Space, observation: object, info: object) -> np.ndarray | None:
    """bool [choices], which classes of the actions are allowed, one choice beside the other; None if nothing tells.

    Args:
        space: of the simulator's actions. Its mask is of its form: an array for a Discrete; for a MultiDiscrete an
            array for each part or all of them side by side; for a Dict a dictionary, in which parts may be missing.
    Raises ValueError for a mask that does not fit.
    """
    mask = _found(observation)
    if mask is None and isinstance(info, Mapping):
        mask = info.get(MASK)
    return None if mask is None else _flat_mask(name, space, mask)


def allowed_action(name: str, space: Space, action: Any, mask: np.ndarray) -> Any:
    """The action itself if it is allowed, else with the next allowed class in place of each that is not.

    Args:
        action: its classes counted from zero.
    Raises ValueError if the mask allows none.
    """
    if isinstance(space, spaces.Dict):
        pairs = zip(space.items(), _split(mask, [sum(_classes(leaf)) for leaf in space.values()]), strict=True)
        parts = {part: allowed_action(name, leaf, action[part], below) for (part, leaf), below in pairs}
        return action if all(parts[part] is action[part] for part in parts) else parts
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return action
    taken, masks = np.asarray(action).reshape(-1).tolist(), _split(mask, _classes(space))
    played = [_next_allowed(name, choice, below) for choice, below in zip(taken, masks, strict=True)]
    if played == taken:
        return action
    allowed = np.array(played, dtype=space.dtype)
    return allowed if isinstance(space, spaces.MultiDiscrete) else allowed[0]


def _found(observation: object) -> object | None:
    """The mask in a dictionary of observations, at whatever depth."""
    if not isinstance(observation, Mapping):
        return None
    found = (leaf if key == MASK else _found(leaf) for key, leaf in observation.items())
    return next((mask for mask in found if mask is not None), None)


def _classes(space: Space) -> list[int]:
    """How many classes each choice has; real numbers have none."""
    if isinstance(space, spaces.Dict):
        return [count for leaf in space.values() for count in _classes(leaf)]
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return [int(count) for count in space.nvec] if isinstance(space, spaces.MultiDiscrete) else []


def _flat_mask(name: str, space: Space, mask: object) -> np.ndarray:
    if isinstance(space, spaces.Dict):
        given = mask if isinstance(mask, Mapping) else _refuse(name, space, mask)
        missing = {part: np.ones(sum(_classes(leaf)), bool) for part, leaf in space.items() if given.get(part) is None}
        return np.concatenate(
            [missing[part] if part in missing else _flat_mask(name, leaf, given[part]) for part, leaf in space.items()]
        )
    parts = list(mask) if isinstance(mask, list | tuple) and isinstance(space, spaces.MultiDiscrete) else [mask]
    try:
        flat = np.concatenate([np.asarray(part).reshape(-1) for part in parts])
    except ValueError:  # parts of parts
        _refuse(name, space, mask)
    if not flat.size or flat.size != sum(_classes(space)) or not np.isin(flat, (0, 1)).all():
        _refuse(name, space, mask)
    return flat.astype(bool)


def _refuse(name: str, space: Space, mask: object) -> NoReturn:
    shape = f" of shape {mask.shape}" if isinstance(mask, np.ndarray) else ""
    given = " ".join(repr(mask).split())
    raise ValueError(
        f"{name}: its action mask is {given:.80}{shape}, its actions {space}; a mask has 0 or 1 for every class of a "
        f"Discrete or MultiDiscrete. Mend it, or give what stands under {MASK!r} another name if it is no mask."
    )


def _split(mask: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    return np.split(mask, np.cumsum(counts)[:-1])


def _next_allowed(name: str, taken: int, mask: np.ndarray) -> int:
    allowed = np.flatnonzero(mask)
    if not allowed.size:
        raise ValueError(
            f"{name}: its action mask allows no action, and the episode goes on: mend the mask, or end the episode."
        )
    place = int(np.searchsorted(allowed, taken))
    return int(allowed[place % allowed.size])
