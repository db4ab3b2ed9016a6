"""Catch: a small game to be played from pixels, registered with gymnasium as "worldloom/Catch-v0"."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

from worldloom_rl.envs.simulator_output import Info, Step

_CELL = 8  # pixels of a cell's sides; ball and paddle move from cell to cell
_CELLS = 8  # of the image's sides
_WIDTH = 2  # cells of the ball's sides, and of the paddle's width
_COLUMNS = _CELLS - _WIDTH + 1  # places from left to right
_ROWS = _CELLS - _WIDTH - 1  # steps of a fall, from the top to the paddle
_FALLS = 10
_MOVES = (0, -1, 1, -2, 2)  # cells that the paddle moves by each action
_DRIFTS = (-1, 0, 1)  # cells that a ball moves sideways in a step
# On mid-grey, which is zero to a model. What is small or faint is foreseen late: to know a little of where it is must
# reduce the reconstruction's error by more than the divergence costs that the knowledge adds.
_BACKGROUND, _BALL_COLOR, _PADDLE_COLOR = (127, 127, 127), (255, 255, 0), (0, 0, 255)

EPISODE_STEPS = _FALLS * (_ROWS + 1) - 1  # a ball needs _ROWS steps, and one more to be replaced by the next


class Catch(gymnasium.Env[np.ndarray, np.int64]):
    """Balls fall one after the other, straight or aslant and bouncing off the walls; a paddle should be under each.

    Observation: uint8 [64, 64, 3]. Actions: 0 stay, 1 left, 2 right, 3 fast left, 4 fast right. Reward: +1 when at
    least half of a ball arrives on the paddle, else −1 for that ball; 0 in between. After ten balls the episode is
    truncated, not terminated: how many there were is not to be seen, so a model cannot foresee the end. A perfect
    player gets 10, a random one about −2.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 - gymnasium declares it on instances
    observation_space = spaces.Box(0, 255, (_CELLS * _CELL, _CELLS * _CELL, 3), np.uint8)
    action_space = spaces.Discrete(len(_MOVES))

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'Catch renders as "rgb_array" only, got render_mode={render_mode!r}.')
        self.render_mode = render_mode
        self._empty = np.full(self.observation_space.shape, _BACKGROUND, np.uint8)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        self.paddle = _COLUMNS // 2
        self.falls = 0
        self.caught = 0
        self._drop_ball()
        return self.render(), {}

    def _drop_ball(self) -> None:
        self.row = 0
        self.column = int(self.np_random.integers(_COLUMNS))
        self.drift = int(self.np_random.choice(_DRIFTS))

    def step(self, action: np.int64) -> Step[np.ndarray]:
        self.paddle = min(max(self.paddle + _MOVES[int(action)], 0), _COLUMNS - 1)
        if self.row == _ROWS:
            self._drop_ball()
            return self.render(), 0.0, False, False, {}
        self.row += 1
        self.column += self.drift
        if not 0 <= self.column < _COLUMNS:
            self.column = -self.column if self.column < 0 else 2 * (_COLUMNS - 1) - self.column
            self.drift = -self.drift
        if self.row < _ROWS:
            return self.render(), 0.0, False, False, {}
        caught = 2 * abs(self.column - self.paddle) <= _WIDTH
        self.falls += 1
        self.caught += caught
        info: Info = {"caught": self.caught, "falls": self.falls}
        return self.render(), 1.0 if caught else -1.0, False, self.falls == _FALLS, info

    def render(self) -> np.ndarray:
        """The image that is also observed."""
        image: np.ndarray = self._empty.copy()
        self._fill(image, self.row, self.column, _WIDTH, _BALL_COLOR)
        self._fill(image, _CELLS - 1, self.paddle, 1, _PADDLE_COLOR)
        return image

    @staticmethod
    def _fill(image: np.ndarray, row: int, column: int, height: int, color: tuple[int, int, int]) -> None:
        rows, columns = slice(row * _CELL, (row + height) * _CELL), slice(column * _CELL, (column + _WIDTH) * _CELL)
        image[rows, columns] = color
