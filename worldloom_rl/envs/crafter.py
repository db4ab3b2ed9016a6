"""Crafter for the names "crafter:reward" and "crafter:noreward" of `make_env`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldloom_rl.envs.simulator_output import Info, Step
from worldloom_rl.extras import require

SIZE = 64  # pixels of the image's sides; dreamerv3 configs.yaml, env.crafter
STEPS = 10_000  # of an episode at most; crafter.Env, length

TASKS = ("reward", "noreward")


class Crafter(gymnasium.Env[np.ndarray, np.int64]):
    """The survival game, observed as uint8 [size, size, 3]; death is `terminated`, the time limit `truncated`.

    `info` holds the game's own: inventory, achievements, position and, also without rewards, the reward. With
    "noreward" every reward is 0. The same seed gives the same worlds; the game walks through unordered sets of its
    creatures, so that later steps differ between processes.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium declares it on instances
    render_mode = "rgb_array"

    def __init__(self, task: str, *, size: int = SIZE, steps: int = STEPS) -> None:
        if task not in TASKS:
            raise ValueError(f"Crafter has the tasks {' and '.join(TASKS)}, not {task!r}: name it 'crafter:reward'.")
        self._crafter = _crafter()
        self._options = {"size": (size, size), "reward": task == "reward", "length": steps}
        self._game: Any = None  # takes its seed when it is built, and makes the seeds of its episodes of it
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self._crafter.constants.actions))

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        if seed is not None or self._game is None:
            seed = int(self.np_random.integers(2**31 - 1)) if seed is None else seed
            self._game = self._crafter.Env(**self._options, seed=seed)
        image: np.ndarray = self._game.reset()
        return image, {}

    def step(self, action: np.int64) -> Step[np.ndarray]:
        image, reward, done, info = self._game.step(int(action))
        info["player_pos"] = info["player_pos"].copy()  # the game's own array
        terminated = info["discount"] == 0
        return image, float(reward), terminated, bool(done) and not terminated, info

    def render(self) -> np.ndarray:
        image: np.ndarray = self._game.render()
        return image


def _crafter() -> ModuleType:
    return require("crafter", extra="crafter", why="'crafter:reward' needs crafter")
