"""Atari games as DreamerV3 plays them, for the names "ale:Game" and "ale100k:Game" of `make_env`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch.nn import functional as F

from worldloom_rl.envs.simulator_output import Info, Step
from worldloom_rl.extras import require

_REPEAT = 4  # frames that an action is held for
_POOLED = 2  # last frames of a step whose maximum is shown: consoles draw some objects in every second frame only
_NO_OPS = 30  # at most, after a reset
_GRAY = np.array([0.299, 0.587, 1 - (0.299 + 0.587)])  # luma of red, green, blue

STEPS = 108_000 // _REPEAT  # of an episode at most: half an hour of play


@dataclass(frozen=True)
class Preset:
    """What differs between the benchmarks; dreamerv3 configs.yaml, env.atari and env.atari100k."""

    size: int  # pixels of the image's sides
    channels: int  # 1 gray, 3 red, green and blue
    sticky: float  # probability that the emulator takes the previous action once more
    all_actions: bool  # the 18 of the joystick, or those that the game uses


PRESETS = {
    "ale": Preset(size=96, channels=1, sticky=0.25, all_actions=True),
    "ale100k": Preset(size=64, channels=3, sticky=0.0, all_actions=False),
}


def games() -> list[str]:
    """The names "Pong", … of the installed emulator."""
    _emulator()
    return sorted(name[len("ALE/") : -len("-v5")] for name in gymnasium.registry if name.startswith("ALE/"))


def make_atari(game: str, preset: Preset) -> Atari:
    """gymnasium's `ALE/<game>-v5` under the preset, without a time limit; `STEPS` is the benchmarks' own."""
    _emulator()
    frames = gymnasium.make(
        f"ALE/{game}-v5",
        disable_env_checker=True,
        render_mode="rgb_array",
        obs_type="ram",  # costs nothing; of four frames only two are drawn
        frameskip=1,
        repeat_action_probability=preset.sticky,
        full_action_space=preset.all_actions,
        max_num_frames_per_episode=None,  # would also count the no-ops after a reset
    )
    return Atari(frames, preset)


def _emulator() -> None:
    """Registers the games with gymnasium."""
    emulator = require("ale_py", extra="atari", why="Names that begin with 'ale:' or 'ale100k:' need ale-py")
    emulator.ALEInterface.setLoggerMode(emulator.LoggerMode.Error)  # else each game begins with a banner


class Atari(gymnasium.Wrapper[np.ndarray, int, np.ndarray, int]):
    """Steps of four frames of an emulator that renders each, observed as uint8 [size, size, channels].

    An episode begins with 0 to 30 no-ops. Each step shows the maximum over its last two frames, resized bilinearly and
    then made gray; the resizing is torch's antialiased one, which differs from the reference's Pillow by at most one of
    256 levels. Rewards are not clipped and lost lives end nothing. `render` gives the picture before it is resized.

    Two things are the reference's intention, not its code. The end of a game is `terminated` and a time limit is not,
    where it calls both terminal. And a reset shows the first frame of the new episode, where its swapped arguments of
    `np.copyto` show the last frame of the previous one.

    Reference: embodied/envs/atari.py of dreamerv3.
    """

    def __init__(self, env: gymnasium.Env[np.ndarray, int], preset: Preset) -> None:
        super().__init__(env)
        self.size, self.channels = preset.size, preset.channels
        self.observation_space = spaces.Box(0, 255, (preset.size, preset.size, preset.channels), np.uint8)
        self.frames: deque[np.ndarray] = deque(maxlen=_POOLED)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[np.ndarray, Info]:
        _, info = self.env.reset(seed=seed, options=options)
        for _ in range(self.np_random.integers(_NO_OPS + 1)):
            _, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                _, info = self.env.reset(options=options)
        self.frames.extend([self._frame()] * _POOLED)
        return self._observation(), info

    def step(self, action: int) -> Step[np.ndarray]:
        total = 0.0
        for frame in range(_REPEAT):
            _, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if frame >= _REPEAT - _POOLED:
                self.frames.append(self._frame())
            if terminated or truncated:
                break
        return self._observation(), total, terminated, truncated, info

    def render(self) -> np.ndarray:
        """uint8 [210, 160, 3] for most games."""
        picture: np.ndarray = np.maximum.reduce(list(self.frames))
        return picture

    def _frame(self) -> np.ndarray:
        return np.asarray(self.env.render())

    def _observation(self) -> np.ndarray:
        picture = torch.from_numpy(self.render()).movedim(-1, 0)
        resized = F.interpolate(picture[None], (self.size, self.size), mode="bilinear", antialias=True)[0]
        image: np.ndarray = resized.movedim(0, -1).numpy()
        if self.channels == 1:
            image = (image * _GRAY).sum(-1, keepdims=True).astype(np.uint8)  # rounded down, as in the reference
        return image
