"""What a run finds out before it begins, where it was not told: by random episodes, or from what was recorded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import torch

from worldloom_rl.config import Json, found_fields
from worldloom_rl.data.run_episodes import is_run
from worldloom_rl.envs.first_look import FirstLook as FirstLook
from worldloom_rl.envs.first_look import look_around
from worldloom_rl.training.options import RunConfig

ConfigT = TypeVar("ConfigT", bound=RunConfig)


def unknown(config: RunConfig) -> list[str]:
    """The fields that are still to be found out."""
    return [name for name in found_fields(type(config)) if getattr(config, name) is None]


def settled(config: ConfigT, **found: bool) -> ConfigT:
    """The configuration with what was found where it says nothing; the rest as earlier runs and data had it, or off."""
    names = unknown(config)
    if "rescale_observations" in names and "rescale_observations" not in found:
        found["rescale_observations"] = _rescaled(config.earlier)
    values: dict[str, Json] = {name: found.get(name, False) for name in names}
    return dataclasses.replace(config, **values)


def look(config: RunConfig) -> FirstLook:
    """What random episodes in a run's environment show. Torch's generator is as before.

    Raises ValueError for an environment that cannot be used.
    """
    with torch.random.fork_rng(devices=[]):
        env = config.make_env(1, config.seed)
        try:
            return look_around(env, config.seed)
        finally:
            env.close()


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
