"""A harbour: the environment of tutorial 04. In a package of yours, the last line stands in its `__init__.py`."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Harbour(gymnasium.Env):
    """A boat, which glides on, is brought to its berth in the middle of walls and held there.

    Observation: where the berth lies from here [2], and the velocity [2]. Action: the thrust [2]. Reward of a step:
    minus the distance.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1.0, 1.0, 2)
        self.velocity = np.zeros(2)
        return self._observe(), {}

    def step(self, action):
        self.velocity = 0.9 * self.velocity + 0.1 * np.asarray(action)
        self.position = np.clip(self.position + 0.2 * self.velocity, -1.0, 1.0)
        return self._observe(), -float(np.linalg.norm(self.position)), False, False, {}

    def _observe(self):
        return np.concatenate([-self.position, self.velocity]).astype(np.float32)


gymnasium.register("Harbour-v0", entry_point=Harbour, max_episode_steps=50)
