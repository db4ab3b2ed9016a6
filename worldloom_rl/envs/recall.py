"""Recall: a game that only memory wins, from pixels, registered with gymnasium as "worldloom/Recall-v0"."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

from worldloom_rl.envs.simulator_output import Info, Step

_SIDE = 64  # pixels
# On mid-grey, which is zero to a model; the cue is as large and as bright as what is asked later.
_BACKGROUND, _CUE, _QUESTION = (127, 127, 127), (255, 255, 0), (0, 0, 255)

DELAY = 12  # steps from the cue to the first question
QUESTIONS = 3
EPISODE_STEPS = DELAY + QUESTIONS


class Recall(gymnasium.Env[np.ndarray, np.int64]):
    """The first image shows a cue at the left or at the right; twelve steps later it is asked where it was.

    Observation: uint8 [64, 64, 3]: yellow the cue, grey the eleven images after it, blue the question, which stands for
    three steps. Actions: 0 left, 1 right. While the question stands the cue's side
    is rewarded with +1, the other with −1. After fifteen steps the episode is truncated. Who remembers gets 3; who does
    not gets 0 on average, whatever is done.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - gymnasium declares it on instances
    observation_space = spaces.Box(0, 255, (_SIDE, _SIDE, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'Recall renders as "rgb_array" only, got render_mode={render_mode!r}.')
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        self.cue = int(self.np_random.integers(2))
        self.steps = 0
        return self.render(), {}

    def step(self, action: np.int64) -> Step[np.ndarray]:
        asked = self.steps >= DELAY
        reward = (1.0 if int(action) == self.cue else -1.0) if asked else 0.0
        self.steps += 1
        return self.render(), reward, False, self.steps == EPISODE_STEPS, {}

    def render(self) -> np.ndarray:
        """The image that is also observed."""
        image: np.ndarray = np.full(self.observation_space.shape, _BACKGROUND, np.uint8)
        half = _SIDE // 2
        if self.steps == 0:
            image[:, self.cue * half : (self.cue + 1) * half] = _CUE
        elif DELAY <= self.steps < EPISODE_STEPS:
            image[half // 2 : -half // 2] = _QUESTION
        return image
