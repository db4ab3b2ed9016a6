"""`worldloom check`: what an environment is to the families of world models."""

from __future__ import annotations

from typing import Annotated

import tyro

from worldloom_rl.commands.ranges import StepCount, in_range
from worldloom_rl.config import Limits

_TRIED = ("dreamerv3", "tdmpc2", "tokens")  # recipes that learn from an environment while they collect


@in_range
def check(
    env: Annotated[str, tyro.conf.Positional] = "",
    env_kwargs: tuple[str, ...] = (),
    action_repeat: Annotated[int, Limits(1, 1000)] | None = None,
    pixels: bool = False,
    time_limit: StepCount | None = None,
    steps: StepCount = 3000,
    tasks: tuple[str, ...] = (),
    data: tuple[str, ...] = (),
    episode_length: StepCount | None = None,
) -> None:
    """Try an environment before training: what models read, memory, time, and problems with their remedies.

    The exit status is 0 if at least one family can be trained, else 2.

    Args:
        env: such as Pendulum-v1, module:Id or dmc:cartpole-balance.
        env_kwargs: of its constructor, such as gravity=-9.8.
        action_repeat: simulator steps an action is held for; by default 2 for dmc:, else 1.
        pixels: observe rendered images.
        time_limit: simulator steps of an episode; by default the environment's own.
        steps: agent steps to project the time for.
        tasks: environments that one agent learns from recorded data; see data.
        data: what is recorded of the environment or the tasks; it alone is looked at, as train tdmpc2 would read it.
        episode_length: agent steps of an episode of a task that has data and no environment.
    """
    if not (env or data or tasks):
        raise ValueError("worldloom check needs the name of an environment, or recorded data of it (--data).")
    if data or tasks:
        from worldloom_rl.commands.check_data import check_data

        options = {"action_repeat": action_repeat, "time_limit": time_limit, "episode_length": episode_length}
        print(check_data(env, tasks, data, **options))
        return
    from worldloom_rl.commands.recipes import find_recipe
    from worldloom_rl.report.environment_check import check_environment

    report = check_environment(
        env,
        [find_recipe(name) for name in _TRIED],
        env_kwargs=env_kwargs,
        action_repeat=action_repeat,
        pixels=pixels,
        time_limit=time_limit,
        steps=steps,
    )
    print(report.text())
    if not report.trainable:
        raise SystemExit(2)
