"""Door: two rooms and one reward, in the corner that is farthest away, registered as "worldloom/Door-v0"."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

from worldloom_rl.envs.simulator_output import Info, Step

ROOM = 7  # cells of a room's sides
WIDTH, HEIGHT = 2 * ROOM + 1, ROOM  # of the whole, the wall between the rooms being one cell wide
GOAL = (WIDTH - 1, HEIGHT - 1)
EPISODE_STEPS = 50
_DOOR = HEIGHT // 2
_MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1))
_PIXELS = 8  # of a cell's sides, when rendered
_WALL, _GOAL, _AGENT = (127, 127, 127), (0, 114, 178), (230, 159, 0)  # colours that all people tell apart


class Door(gymnasium.Env[np.ndarray, np.int64]):
    """A walk from one corner through a door to the farthest corner of another room; nothing on the way is rewarded.

    Observation: float32 [2], the cell's column and row, each brought to [-1, 1]. Actions: 0 right, 1 left, 2 up,
    3 down; walls stop. Arriving at the goal brings 1 and ends the episode, which the shortest way does in 20 steps; all
    else brings 0, and after 50 steps the episode is truncated. Its last info has "success". Of random episodes some one
    in three thousand succeeds.

    Attributes:
        cell: (column, row).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium declares it on instances
    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(4)

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'Door renders as "rgb_array" only, got render_mode={render_mode!r}.')
        self.render_mode = render_mode
        self.cell, self.steps = (0, 0), 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        self.cell, self.steps = (0, 0), 0
        return self._observed(), {}

    def step(self, action: np.int64) -> Step[np.ndarray]:
        right, up = _MOVES[int(action)]
        ahead = (self.cell[0] + right, self.cell[1] + up)
        if is_free(*ahead):
            self.cell = ahead
        self.steps += 1
        arrived, late = self.cell == GOAL, self.steps >= EPISODE_STEPS
        info: Info = {"success": arrived} if arrived or late else {}
        return self._observed(), float(arrived), arrived, late and not arrived, info

    def render(self) -> np.ndarray:
        """uint8 [56, 120, 3], the first row of cells at the bottom."""
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for column, row in np.ndindex(WIDTH, HEIGHT):
            if not is_free(column, row):
                image[row, column] = _WALL
        image[GOAL[1], GOAL[0]] = _GOAL
        image[self.cell[1], self.cell[0]] = _AGENT
        large: np.ndarray = image[::-1].repeat(_PIXELS, 0).repeat(_PIXELS, 1)
        return large

    def _observed(self) -> np.ndarray:
        return place_of(*self.cell)


def is_free(column: int, row: int) -> bool:
    """Whether a cell is inside and no wall."""
    return 0 <= column < WIDTH and 0 <= row < HEIGHT and (column != ROOM or row == _DOOR)


def place_of(column: int, row: int) -> np.ndarray:
    """float32 [2] that is observed in a cell."""
    return np.array([2 * column / (WIDTH - 1) - 1, 2 * row / (HEIGHT - 1) - 1], np.float32)
