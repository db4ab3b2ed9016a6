"""Rendered frames, whatever form they come in, also where there is no display."""

from __future__ import annotations

import os
import sys

import numpy as np

from worldloom_rl.config import Json
from worldloom_rl.envs import atari
from worldloom_rl.envs.simulator_output import Simulator, raised_below

_DRAW_UNASKED = {"dmc", "crafter", *atari.PRESETS}


def render_without_display() -> None:
    """Lets MuJoCo and pygame draw on a machine without a display, unless the user told them how.

    MuJoCo's libraries read this when they are imported or draw first, pygame when it opens a window.
    """
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def drawing_arguments(name: str) -> dict[str, Json]:
    """The `env_kwargs` with which `make_env` makes an environment of that name that can be drawn."""
    return {} if name.partition(":")[0] in _DRAW_UNASKED else {"render_mode": "rgb_array"}


def render_frame(name: str, env: Simulator) -> np.ndarray:
    """uint8 [3, height, width] of what the simulator draws.

    Taken are [height, width, C] and [height, width] of levels from 0 to 255 in any type of whole numbers, or of real
    numbers from 0 to 1: gray, colours, or colours and opacity, which is left out; of several frames the last.

    Raises ValueError for anything else; errors of the drawing are the simulator's.
    """
    try:
        given = env.render()
    except NotImplementedError as error:
        if raised_below(error):
            raise
        raise ValueError(f'{name} has no render(); write one that draws with render_mode="rgb_array".') from error
    frame: object = given[-1] if isinstance(given, list) and given and isinstance(given[-1], np.ndarray) else given
    try:
        array = np.asarray(frame)
    except ValueError:  # lists of unequal length
        array = np.asarray(None)
    levels = _levels(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if levels is None or 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        said = "None" if frame is None else f"{array.dtype} of shape {array.shape}"
        if levels is None and array.dtype.kind in "iuf" and array.size:
            said += f", from {array.min()} to {array.max()},"
        raise ValueError(
            f'{name}: render() gave {said} with render_mode="rgb_array"; an array [height, width, 3] of bytes is '
            "expected: mend render, or leave pixels off."
        )
    levels = levels.reshape(array.shape)
    if levels.ndim == 2:
        return np.broadcast_to(levels, (3, *levels.shape))
    return np.moveaxis(levels[..., :3], -1, 0)


def _levels(array: np.ndarray) -> np.ndarray | None:
    """The numbers as bytes, or None if they are no levels."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and array.size and array.min() >= 0.0 and array.max() <= 1.0:
        return np.round(array * 255.0).astype(np.uint8)
    return None
