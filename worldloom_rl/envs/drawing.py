"""The picture of an environment whose agent sees something else."""

from __future__ import annotations

import numpy as np
from torchrl.envs import EnvBase

from worldloom_rl.config import Json
from worldloom_rl.envs import atari
from worldloom_rl.envs.agent_steps import AgentSteps
from worldloom_rl.envs.real import simulators
from worldloom_rl.envs.rendering import render_frame
from worldloom_rl.envs.tasks import InTask

_DRAW_UNASKED = {"dmc", "crafter", *atari.PRESETS}


def drawing_arguments(name: str) -> dict[str, Json]:
    """The `env_kwargs` with which `make_env` makes an environment of that name that can be drawn."""
    return {} if name.partition(":")[0] in _DRAW_UNASKED else {"render_mode": "rgb_array"}


def draw(env: EnvBase) -> np.ndarray:
    """uint8 [height, width, 3] of a single environment of `make_env`, as it stands.

    Raises ValueError if it draws nothing of that form; errors of the drawing are the simulator's.
    """
    (steps,) = simulators(env)
    steps = steps.env if isinstance(steps, InTask) else steps
    assert isinstance(steps, AgentSteps)
    return np.moveaxis(render_frame(steps.name, steps.env), 0, -1)
