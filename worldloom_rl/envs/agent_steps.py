"""A simulator's step as an agent's: action repeat, blocks of actions, data types, images."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldloom_rl import keys
from worldloom_rl.envs.action_mask import allowed_action, read_mask
from worldloom_rl.envs.finite_numbers import check_action, check_observed, check_reward
from worldloom_rl.envs.rendering import render_frame
from worldloom_rl.envs.simulator_output import (
    Info,
    Simulator,
    Step,
    read_flag,
    reset_simulator,
    step_simulator,
)
from worldloom_rl.specs.observed import Observed, Reader, observation_reader
from worldloom_rl.specs.spaces import (
    Space,
    action_block_space,
    action_space_of,
    observation_space_of,
    resize_image,
    simulator_action,
)

_ALONE = "observation"  # the name of an observation without parts
_SUCCESS = ("success", "is_success")  # as Meta-World and Gymnasium-Robotics name it in their info


class AgentSteps(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Action repeat, a check of what the simulator gives, and observations in the form `make_env` promises.

    Where the simulator tells which actions it allows, only those are played; see `action_mask`.
    """

    def __init__(
        self,
        env: Simulator,
        name: str,
        action_repeat: int,
        episode_length: int,
        image: Frames | None,
        action_block: int = 1,
    ) -> None:
        super().__init__(env)
        self.action_block = action_block
        self.name, self.action_repeat, self.episode_length, self.image = name, action_repeat, episode_length, image
        actions = action_space_of(name, getattr(env, "action_space", None))
        self.action_space = action_block_space(name, actions, action_block)
        if image is not None:
            self.observation_space = spaces.Dict({"pixels": image.space})
        else:
            space = observation_space_of(name, getattr(env, "observation_space", None))
            self._read: Reader = observation_reader(name, env.observation_space)
            # By name: TorchRL calls an image that stands alone "pixels" where it is three columns wide.
            self.observation_space = space if isinstance(space, spaces.Dict) else spaces.Dict({_ALONE: space})
        clashes = _names(self.action_space, keys.ACTION) & _names(self.observation_space, _ALONE)
        if clashes:
            raise ValueError(f"{name}: {sorted(clashes)} name both an action and an observation; rename one of them.")
        self.steps_done = 0
        self.mask: np.ndarray | None = None  # bool [choices], of the actions that are allowed now
        self.forbidden = 0  # actions so far in whose place others were played
        self.succeeded: bool | None = None  # in this episode so far; None as long as the environment did not say
        self.last_success: bool | None = None  # of the episode that ended last

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[object, Info]:
        observation, info = reset_simulator(self.name, self.env, seed, options)
        self.steps_done, self.succeeded = 0, None
        self.mask = read_mask(self.name, self.env.action_space, observation, info)
        if self.image is not None:
            return {"pixels": self.image.first(render_frame(self.name, self.env))}, info
        return self._seen(observation), info

    def step(self, action: Any) -> Step[object]:
        observation, reward, terminated, truncated, info = self.advance(action)
        if self.image is None:
            return self._seen(observation), reward, terminated, truncated, info
        image = self.image.next(render_frame(self.name, self.env))
        return {"pixels": image}, reward, terminated, truncated, info

    def advance(self, action: Any) -> Step[object]:
        """A step with the simulator's own observation, neither read nor rendered."""
        total = 0.0
        check_action(self.name, action)
        block = [action] if self.action_block == 1 else np.split(np.asarray(action), self.action_block)
        for action in [part for part in block for _ in range(self.action_repeat)]:
            if self.action_block > 1 and isinstance(self.env.action_space, spaces.Discrete):
                action = action[0]
            action = simulator_action(self.env.action_space, self._allowed(action))
            observation, reward, terminated, truncated, info = step_simulator(self.name, self.env, action)
            self.mask = read_mask(self.name, self.env.action_space, observation, info)
            self.steps_done += 1
            total += reward
            check_reward(self.name, reward, total, self.steps_done, action)
            for name in _SUCCESS:
                if info.get(name) is not None:
                    self.succeeded = read_flag(self.name, f"info[{name!r}]", info[name]) or bool(self.succeeded)
            if terminated or truncated:
                self.last_success = self.succeeded
                break
        return observation, total, terminated, truncated, info

    def _allowed(self, action: Any) -> Any:
        if self.mask is None:
            return action
        allowed = allowed_action(self.name, self.env.action_space, action, self.mask)
        self.forbidden += allowed is not action
        return allowed

    def _seen(self, observation: object) -> dict[str, Observed]:
        read = self._read(observation)
        check_observed(self.name, read, self.steps_done)
        return read if isinstance(read, dict) else {_ALONE: read}


class Frames:
    """The last frames as one uint8 image [3·frames, size, size]."""

    def __init__(self, frames: int, size: int) -> None:
        self.size = size
        self.frames: deque[np.ndarray] = deque(maxlen=frames)
        self.space = spaces.Box(0, 255, (3 * frames, size, size), np.uint8)

    def first(self, frame: np.ndarray) -> np.ndarray:
        """The image of an episode's first frame [3, height, width]."""
        self.frames.extend([resize_image(frame, self.size)] * (self.frames.maxlen or 1))
        return np.concatenate(self.frames)

    def next(self, frame: np.ndarray) -> np.ndarray:
        """The image of the frame [3, height, width] that follows."""
        self.frames.append(resize_image(frame, self.size))
        return np.concatenate(self.frames)


def _names(space: Space, alone: str) -> set[str]:
    """The names at the root of the tensordict."""
    names = set(space) if isinstance(space, spaces.Dict) else {alone}
    return names - {"state"} | {_ALONE} if "state" in names and _ALONE not in names else names  # TorchRL renames it
