"""Simulators given as environments of gymnasium, or as functions that make them."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium

from worldloom_rl.envs.simulator_output import Simulator

Maker = Callable[[], Simulator]


def name_of(given: Simulator | Maker) -> str:
    """What messages call an environment that has no registered name."""
    if isinstance(given, gymnasium.Env):
        return given.spec.id if given.spec is not None else type(given.unwrapped).__name__
    return getattr(given, "__name__", type(given).__name__)


def given_simulator(given: Simulator | Maker, pixels: bool, time_limit: int | None) -> tuple[Simulator, int]:
    """The environment, or a new one of the function, and its time limit in simulator steps.

    Args:
        pixels: whether it must render images.
        time_limit: where it has no longer one of its own.
    Raises TypeError for anything else, ValueError where it lacks a time limit or does not render.
    """
    simulator = given if isinstance(given, gymnasium.Env) else given()
    name = name_of(simulator if isinstance(simulator, gymnasium.Env) else given)
    if not isinstance(simulator, gymnasium.Env):
        raise TypeError(
            f"{name} made a {type(simulator).__name__}; make_env takes a function that makes one environment of "
            "gymnasium (gymnasium.Env)."
        )
    if pixels and simulator.render_mode != "rgb_array":
        raise ValueError(f'{name} has render_mode={simulator.render_mode!r}: for pixels, make it with "rgb_array".')
    own = _time_limit(simulator)
    if time_limit is None and own is None:
        raise ValueError(
            f"{name} has no time limit, and the discount and the replay need one: give it in simulator steps, "
            "make_env(…, time_limit=1000), or wrap it in gymnasium.wrappers.TimeLimit."
        )
    if time_limit is None or time_limit == own:
        assert own is not None
        return simulator, own
    if own is not None and own < time_limit:
        raise ValueError(f"{name} ends its episodes after {own} steps already; time_limit={time_limit} is beyond that.")
    return gymnasium.wrappers.TimeLimit(simulator, time_limit), time_limit


def _time_limit(simulator: Simulator) -> int | None:
    """Of the wrappers that hold one, the lowest."""
    limits = []
    while isinstance(simulator, gymnasium.Wrapper):
        if isinstance(simulator, gymnasium.wrappers.TimeLimit):
            limits.append(int(simulator._max_episode_steps))
        simulator = simulator.env
    return min(limits, default=None)
