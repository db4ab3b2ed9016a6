"""PointRoom: a point to be moved to where a goal image shows it, registered as "worldloom/PointRoom-v0"."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldloom_rl.envs.simulator_output import Info, Step

SIZE = 16  # pixels of the image's sides
REACH = 0.3  # what the largest action moves the point by, along each axis; the room is [-1, 1] x [-1, 1]
NEAR = 0.2  # distance from the goal that counts as being there
EPISODE_STEPS = 20
_BLUR = 1.2  # pixels, standard deviation of the point's disc: its place shows more finely than in whole pixels
_MARGIN = 2  # pixels between the room's walls and the image's edge


class PointRoom(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A point in an empty room; each episode shows where it should go, and being there at the end is success.

    Observation: {"pixels": uint8 [16, 16, 3], "goal": {"pixels": the same}}, the latter being the image at the goal.
    Action: [2] in [-1, 1], moves the point by up to 0.3 along each axis; walls stop it. Start and goal are drawn
    uniformly. Reward: minus the distance from the goal. After 20 steps the episode is truncated, and its last info has
    "success", whether the distance is below 0.2.

    Attributes:
        position, goal: float64 [2], in [-1, 1].
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium declares it on instances
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    observation_space = spaces.Dict(
        {
            "pixels": spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            "goal": spaces.Dict({"pixels": spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)}),
        }
    )

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'PointRoom renders as "rgb_array" only, got render_mode={render_mode!r}.')
        self.render_mode = render_mode
        self.position = self.goal = np.zeros(2)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[dict[str, object], Info]:
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1.0, 1.0, 2)
        self.goal = self.np_random.uniform(-1.0, 1.0, 2)
        self.steps = 0
        return self._observed(), {}

    def step(self, action: np.ndarray) -> Step[dict[str, object]]:
        self.position = np.clip(self.position + REACH * np.clip(action, -1.0, 1.0), -1.0, 1.0)
        self.steps += 1
        distance = float(np.linalg.norm(self.position - self.goal))
        ended = self.steps >= EPISODE_STEPS
        return self._observed(), -distance, False, ended, {"success": distance < NEAR} if ended else {}

    def render(self) -> np.ndarray:
        """The image that is also observed."""
        return picture(self.position)

    def _observed(self) -> dict[str, object]:
        return {"pixels": picture(self.position), "goal": {"pixels": picture(self.goal)}}


def picture(position: np.ndarray) -> np.ndarray:
    """uint8 [16, 16, 3], the room with the point at a position [2] (x to the right, y downward)."""
    place = _MARGIN + (position + 1.0) / 2 * (SIZE - 1 - 2 * _MARGIN)
    pixels = np.arange(SIZE)
    across, down = (np.exp(-((pixels - coordinate) ** 2) / (2 * _BLUR**2)) for coordinate in place)
    image: np.ndarray = np.round(255 * np.outer(down, across)).astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2)
