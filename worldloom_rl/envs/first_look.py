"""What random episodes of an environment show: whether they can end by themselves, and whether its bounds lie apart."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torchrl.envs import EnvBase

from worldloom_rl.envs.agent_steps import AgentSteps
from worldloom_rl.envs.real import simulators

# A terminal state ends the look, from the fewest steps on.
_FEWEST_STEPS, _MOST_STEPS, _MOST_EPISODES, _MOST_SECONDS = 200, 4000, 40, 20.0
_HELD = 5  # an action is held for at most 2 to this power agent steps
_APART = 10.0  # times that bounds of one entry are wider than those of another when it pays to rescale them
_FILLED = 0.01  # of its bounds that an entry moves through at least, or they are no measure of it


@dataclass(frozen=True)
class FirstLook:
    """What random episodes show.

    Attributes:
        terminates: whether one ended in a terminal state.
        bounds_apart: whether the bounds of some entries of the observation are far wider than those of others.
    """

    terminates: bool
    bounds_apart: bool


def look_around(env: EnvBase, seed: int) -> FirstLook:
    """What random episodes in the first simulator of an environment of `make_env` show.

    An action is held for 1, 2, 4, … or 32 agent steps. Single ones cancel each other out: no episode of them comes to a
    goal such as Acrobot's, which is a terminal state.
    """
    steps = next(simulators(env))
    assert isinstance(steps, AgentSteps)
    steps.action_space.seed(seed)
    step = steps.step if steps.image is None else steps.advance  # rendering takes long and has no bounds to compare
    generator, until = np.random.default_rng(seed), time.monotonic() + _MOST_SECONDS
    seen, _ = steps.reset(seed=seed)
    low = high = _vector(seen)
    terminates, held, count, episodes = False, 0, 0, 0
    while count < _MOST_STEPS and time.monotonic() < until:
        if count >= _FEWEST_STEPS and (terminates or episodes >= _MOST_EPISODES):
            break
        if not held:
            action, held = steps.action_space.sample(), 2 ** int(generator.integers(_HELD + 1))
        seen, _, terminated, truncated, _ = step(action)
        low, high = np.minimum(low, _vector(seen)), np.maximum(high, _vector(seen))
        terminates, held, count = terminates or terminated, held - 1, count + 1
        if terminated or truncated:
            seen, _ = steps.reset()
            held, episodes = 0, episodes + 1
    return FirstLook(terminates, _bounds_apart(steps.env.observation_space, low, high))


def _vector(seen: object) -> NDArray[np.float64]:
    """The observation, if it is one vector of numbers."""
    alone = seen.get("observation") if isinstance(seen, dict) and len(seen) == 1 else None
    return np.asarray(alone if alone is not None else 0.0, float)


def _bounds_apart(space: spaces.Space[object] | None, low: NDArray[np.float64], high: NDArray[np.float64]) -> bool:
    """Whether one entry's bounds are far wider than another's, and each entry moved through some of its own.

    Args:
        low, high: the least and the greatest value of each entry that was seen.
    """
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating) or low.shape != space.shape:
        return False
    width = space.high.astype(float) - space.low
    bounded, moved = np.isfinite(width) & (width > 0), high > low
    if not bounded.any() or bool((high - low < _FILLED * width)[bounded & moved].any()):
        return False
    return bool(width[bounded].max() > _APART * width[bounded].min())
