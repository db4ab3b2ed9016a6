"""DeepMind Control as a gymnasium environment, for the names "dmc:domain-task" of `make_env`."""

from __future__ import annotations

import math
from types import ModuleType
from typing import TYPE_CHECKING, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from worldloom_rl.envs.simulator_output import Info
from worldloom_rl.extras import require

if TYPE_CHECKING:
    import dm_env

_DRAWN_SIZE = 240  # rows and columns for people, where the agent sees no image


def suite() -> ModuleType:
    why = "Names that begin with 'dmc:' need dm-control and mujoco below 4"
    return require("dm_control.suite", extra="dmc", why=why)


class DeepMindControl(gymnasium.Env[np.ndarray, np.ndarray]):
    """A DeepMind Control task: float32 observations concatenated in the task's order.

    The end of an episode is terminal only where the task says so (discount 0); TorchRL's `DMControlEnv` also takes
    any other discount below one for a terminal state.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium declares it on instances

    def __init__(self, suite: ModuleType, domain: str, task: str, image_size: int | None, *, own_limit: bool) -> None:
        options = {} if own_limit else {"time_limit": math.inf}
        self._task = suite.load(domain, task, task_kwargs=options)
        self._image_size = image_size
        self._camera = 2 if domain == "quadruped" else 0  # tdmpc2 envs/dmcontrol.py, Pixels
        self.render_mode = "rgb_array" if image_size else None
        self.limit = float(getattr(self._task, "_step_limit", math.inf))  # dm_control.rl.control.Environment
        action = self._task.action_spec()
        self.action_space = spaces.Box(action.minimum, action.maximum, dtype=action.dtype)
        size = sum(math.prod(leaf.shape) for leaf in self._task.observation_spec().values())
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[np.ndarray, Info]:
        if seed is not None:
            self._task.task._random = np.random.RandomState(seed)  # as TorchRL's DMControlEnv does
        return self._observation(self._task.reset()), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, Info]:
        step = self._task.step(action)
        terminated = step.last() and step.discount == 0.0
        return self._observation(step), step.reward, terminated, step.last() and not terminated, {}

    def render(self) -> np.ndarray:
        size = self._image_size or _DRAWN_SIZE
        image: np.ndarray = self._task.physics.render(size, size, camera_id=self._camera)
        return image

    def close(self) -> None:
        self._task.close()

    @staticmethod
    def _observation(step: dm_env.TimeStep) -> np.ndarray:
        return np.concatenate([np.ravel(leaf) for leaf in step.observation.values()]).astype(np.float32)
