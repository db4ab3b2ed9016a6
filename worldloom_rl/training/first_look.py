"""What a run finds out before it begins, where it was not told: by random episodes, or from what was recorded."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from worldloom_rl.config import found_fields
from worldloom_rl.data.run_episodes import is_run
from worldloom_rl.envs.agent_steps import AgentSteps
from worldloom_rl.envs.real import simulators
from worldloom_rl.training.options import RunConfig

# A terminal state ends the look, from the fewest steps on.
_FEWEST_STEPS, _MOST_STEPS, _MOST_EPISODES, _MOST_SECONDS = 200, 4000, 40, 20.0
_HELD = 5  # an action is held for at most 2 to this power agent steps
_APART = 10.0  # times that bounds of one entry are wider than those of another when it pays to rescale them
_FILLED = 0.01  # of its bounds that an entry moves through at least, or they are no measure of it

ConfigT = TypeVar("ConfigT", bound=RunConfig)


@dataclass(frozen=True)
class FirstLook:
    """What random episodes show.

    Attributes:
        terminates: whether one ended in a terminal state.
        bounds_apart: whether the bounds of some entries of the observation are far wider than those of others.
    """

    terminates: bool
    bounds_apart: bool


def unknown(config: RunConfig) -> list[str]:
    """The fields that are still to be found out."""
    return [name for name in found_fields(type(config)) if getattr(config, name) is None]


def settled(config: ConfigT, **found: bool) -> ConfigT:
    """The configuration with what was found where it says nothing; the rest as earlier runs and data had it, or off."""
    names = unknown(config)
    if "rescale_observations" in names and "rescale_observations" not in found:
        found["rescale_observations"] = _rescaled(config.earlier)
    return dataclasses.replace(config, **{name: found.get(name, False) for name in names})


def look(config: RunConfig) -> FirstLook:
    """What random episodes in a run's environment show. Torch's generator is as before.

    Raises ValueError for an environment that cannot be used.
    """
    with torch.random.fork_rng(devices=[]):
        env = config.make_env(1, config.seed)
        try:
            steps = next(simulators(env))
            assert isinstance(steps, AgentSteps)
            return _play(steps, config.seed)
        finally:
            env.close()


def _play(steps: AgentSteps, seed: int) -> FirstLook:
    """Random episodes, in which an action is held for 1, 2, 4, … or 32 agent steps.

    Single ones cancel each other out: no episode of them comes to a goal such as Acrobot's, which is a terminal state.
    """
    steps.action_space.seed(seed)
    generator, until = np.random.default_rng(seed), time.monotonic() + _MOST_SECONDS
    seen, _ = steps.reset(seed=seed)
    low = high = _vector(seen)
    terminates, held, count, episodes = False, 0, 0, 0
    while count < _MOST_STEPS and time.monotonic() < until:
        if count >= _FEWEST_STEPS and (terminates or episodes >= _MOST_EPISODES):
            break
        if not held:
            action, held = steps.action_space.sample(), 2 ** int(generator.integers(_HELD + 1))
        seen, _, terminated, truncated, _ = steps.step(action)
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


def _rescaled(earlier: Iterable[str]) -> bool:
    """Whether the runs among these rescaled their observations.

    Raises ValueError if some did and others did not.
    """
    told = {source: bool(value) for source in earlier if (value := _told(source)) is not None}
    if len(set(told.values())) > 1:
        apart = [[source for source, value in told.items() if value is each] for each in (True, False)]
        raise ValueError(
            f"Observations of {', '.join(apart[0])} are rescaled to [-1, 1], those of {', '.join(apart[1])} are not: "
            "one agent cannot learn from both. Say which holds here by --rescale-observations or its --no- form."
        )
    return any(told.values())


def _told(source: str) -> object:
    """What the run's configuration says of a source, which may be TASK=RUN; None of one that is no run."""
    paths = [Path(part) for part in (source, source.partition("=")[2]) if part]
    run = next((path for path in paths if is_run(path)), None)
    if run is None:
        return None
    try:
        return json.loads((run / "config.json").read_text("utf-8"))["config"].get("rescale_observations", False)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # whoever reads the run says what is wrong
        return None
