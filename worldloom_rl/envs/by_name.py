"""Simulators by name: gymnasium environments as their authors made them, each with its time limit."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import gymnasium
import numpy as np
from gymnasium import spaces

from worldloom_rl.config import Json
from worldloom_rl.envs import atari, crafter, dmc
from worldloom_rl.envs.by_object import given_simulator
from worldloom_rl.envs.simulator_output import Simulator, raised_below
from worldloom_rl.specs.observed import observation_reader

_DMC = "dmc:"
_DMC_DOMAINS = {"cup": "ball_in_cup", "pointmass": "point_mass"}  # tdmpc2 envs/dmcontrol.py, make_env


def make_simulator(
    name: str, pixels: bool, image_size: int, time_limit: int | None, arguments: Mapping[str, Json]
) -> tuple[Simulator, int]:
    """The environment of a name of `make_env` and its time limit in simulator steps.

    Args:
        pixels: whether it shall render images, of `image_size` rows and columns where it can.
        time_limit: instead of its own.
        arguments: of its constructor.
    Raises ValueError for a name that stands for nothing, ImportError for one whose package is missing.
    """
    family = name.partition(":")[0]
    makers = dict.fromkeys(atari.PRESETS, _make_atari) | {"dmc": _make_dmc, "crafter": _make_crafter}
    if family not in makers:
        return _make_gym(name, pixels, image_size, time_limit, arguments)
    if arguments:
        raise ValueError(f"{name} takes no arguments, got {sorted(arguments)}; environments of gymnasium do.")
    return makers[family](name, pixels, image_size, time_limit)


def rescaled(name: str, simulator: Simulator) -> Simulator:
    """The environment with the bounded entries of its observation in [-1, 1], the others as they are."""
    space = simulator.observation_space
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"{name} observes {space}; only a real Box can be rescaled: leave rescale_observations off, or register "
            "the environment under a gymnasium.wrappers.TransformObservation of your own."
        )
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    if not bounded.any():
        raise ValueError(f"{name} gives no bounds of its observation {space}, so nothing can be rescaled.")
    low, high = np.where(bounded, -1.0, space.low), np.where(bounded, 1.0, space.high)
    wrapped = gymnasium.wrappers.RescaleObservation(simulator, low.astype(space.dtype), high.astype(space.dtype))
    check, rescale = observation_reader(name, space), wrapped.func

    def checked(observation: object) -> object:
        check(observation)  # NumPy would spread an observation of another shape over the space's
        return rescale(np.asarray(observation))

    wrapped.func = checked
    return wrapped


def _make_gym(
    name: str, pixels: bool, image_size: int, time_limit: int | None, arguments: Mapping[str, Json]
) -> tuple[Simulator, int]:
    """The gymnasium environment and its time limit in simulator steps."""
    module, _, identifier = name.rpartition(":")
    # Registers the id; gymnasium.spec, other than gymnasium.make, does not import.
    within = importlib.import_module(module) if module else None
    options: dict[str, Json] = {"render_mode": "rgb_array"} if pixels else {}
    try:
        spec = gymnasium.spec(identifier)
    except gymnasium.error.Error as error:
        maker = getattr(within, identifier, None)
        if not callable(maker):
            raise ValueError(f"gymnasium knows no {name!r}. {_did_you_mean(identifier, gymnasium.registry)}") from error
        simulator = _constructed(name, pixels, lambda: maker(**options, **arguments))
        return given_simulator(simulator, pixels, time_limit)
    limit = time_limit or spec.max_episode_steps
    if limit is None:
        raise ValueError(
            f"{name} has no time limit, and the discount and the replay need one: give it in simulator steps, "
            "make_env(…, time_limit=1000) or --time-limit 1000."
        )
    if pixels and "gymnasium.envs.mujoco" in str(spec.entry_point):
        options |= {"width": image_size, "height": image_size}  # renders at the size asked for
    options |= arguments
    # The passive checker repeats at every step what TorchRL's specs say.
    make = partial(gymnasium.make, identifier, max_episode_steps=limit, disable_env_checker=True, **options)
    return _constructed(name, pixels, make), limit


def _constructed(name: str, pixels: bool, make: Callable[[], Simulator]) -> Simulator:
    """What it makes. Raises ValueError, ImportError where that is not the constructor's own doing."""
    try:
        return make()
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise ImportError(f"gymnasium cannot make {name!r}: {error}") from error
    except TypeError as error:
        if raised_below(error.__cause__ or error):
            raise
        needs = 'For pixels it takes render_mode="rgb_array". ' if pixels else ""
        raise ValueError(
            f"gymnasium cannot make {name!r}: {error}. {needs}Arguments of its constructor are given by --env-kwargs "
            "name=value, by make_env(…, env_kwargs={…}), or where it is registered: gymnasium.register(id, "
            "entry_point, kwargs={…})."
        ) from error


def _make_dmc(name: str, pixels: bool, image_size: int, time_limit: int | None) -> tuple[Simulator, int]:
    """The DeepMind Control task as a gymnasium environment and its time limit in simulator steps."""
    suite = dmc.suite()
    domain, _, task = name.removeprefix(_DMC).partition("-")
    domain, task = _DMC_DOMAINS.get(domain, domain), task.replace("-", "_")
    if (domain, task) not in suite.ALL_TASKS:
        known = [_DMC + "-".join(pair) for pair in suite.ALL_TASKS]
        raise ValueError(f"DeepMind Control has no {name!r} (domain-task). {_did_you_mean(name, known)}")
    simulator = dmc.DeepMindControl(suite, domain, task, image_size if pixels else None, own_limit=time_limit is None)
    limit = simulator.limit if time_limit is None else float(time_limit)
    if math.isinf(limit):
        raise ValueError(f"{name} has no time limit: give one, make_env(…, time_limit=1000) or --time-limit 1000.")
    if time_limit is not None:
        return gymnasium.wrappers.TimeLimit(simulator, time_limit), time_limit
    return simulator, math.ceil(limit)


def _make_atari(name: str, pixels: bool, image_size: int, time_limit: int | None) -> tuple[Simulator, int]:
    """The game under its benchmark's preset and its time limit in steps of four frames."""
    preset, _, game = name.partition(":")
    known = atari.games()
    if game not in known:
        raise ValueError(
            f"The Atari emulator has no {name!r}. {_did_you_mean(name, [f'{preset}:{other}' for other in known])}"
        )
    limit = time_limit or atari.STEPS
    return gymnasium.wrappers.TimeLimit(atari.make_atari(game, atari.PRESETS[preset]), limit), limit


def _make_crafter(name: str, pixels: bool, image_size: int, time_limit: int | None) -> tuple[Simulator, int]:
    """Crafter and its time limit in steps."""
    task = name.partition(":")[2] or "reward"
    limit = time_limit or crafter.STEPS
    return crafter.Crafter(task, size=image_size if pixels else crafter.SIZE, steps=limit), limit


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return (
        "Environments of another package are named module:Id, those of DeepMind Control dmc:domain-task, "
        "games of Atari ale:Game."
    )
