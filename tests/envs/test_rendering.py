"""What render() gives: taken as the picture it is, or refused."""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldloom_rl.envs import make_env, rendering
from worldloom_rl.envs.rendering import render_frame, render_without_display


class Drawn(gymnasium.Env[Any, Any]):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium declares it on instances
    observation_space = spaces.Text(3)  # is not observed
    action_space = spaces.Discrete(2)
    render_mode = "rgb_array"

    def __init__(self, frame: Any) -> None:
        self.frame = frame

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return "a", {}

    def step(self, action: Any) -> Any:
        return "a", 0.0, False, False, {}

    def render(self) -> Any:
        return self.frame


COLOURS = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
GRAY = COLOURS[..., 0]
OPAQUE = np.concatenate([COLOURS, COLOURS[..., :1]], -1)
GRAYS = np.stack([GRAY] * 3)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (COLOURS, COLOURS.transpose(2, 0, 1)),
        (OPAQUE, COLOURS.transpose(2, 0, 1)),
        (GRAY, GRAYS),
        (GRAY[..., None], GRAYS),
        (COLOURS.astype(np.int64), COLOURS.transpose(2, 0, 1)),
        (COLOURS / 255.0, COLOURS.transpose(2, 0, 1)),
        ((GRAY / 255.0).astype(np.float32), GRAYS),
        (COLOURS.tolist(), COLOURS.transpose(2, 0, 1)),
        ([np.zeros_like(COLOURS), COLOURS], COLOURS.transpose(2, 0, 1)),
        (COLOURS[::-1], COLOURS[::-1].transpose(2, 0, 1)),
    ],
    ids=["colours", "opacity", "gray", "gray axis", "int64", "real", "real gray", "lists", "several", "flipped"],
)
def test_a_frame_is_taken_as_the_picture_it_is(frame: Any, expected: np.ndarray) -> None:
    seen = render_frame("Drawn", Drawn(frame))
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize(
    "frame",
    [
        None, "ansi", [], [None], {}, np.zeros(5, np.uint8), np.zeros((3, 6, 5), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((6, 5, 2), np.uint8), np.full((6, 5, 3), 7.5), np.full((6, 5, 3), -1), np.full((6, 5, 3), np.nan),
        np.full((6, 5, 3), 256), np.zeros((2, 6, 5, 3), np.uint8), np.zeros((6, 5, 3), complex), np.array([object()]),
        [[1, 2], [3]],
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(frame: Any) -> None:
    with pytest.raises(ValueError, match=r"Drawn: render\(\) gave .* \[height, width, 3\] of bytes is expected"):
        render_frame("Drawn", Drawn(frame))


def test_frames_are_resized_and_stacked_whatever_is_observed() -> None:
    env = make_env(Drawn(GRAY), pixels=True, frame_stack=2, image_size=4, time_limit=5)
    steps = env.rollout(3)
    assert steps["pixels"].shape == (3, 6, 4, 4)
    assert set(steps["next"].keys()) == {"pixels", "reward", "done", "terminated", "truncated", "is_init"}


def test_an_environment_without_a_render_says_so() -> None:
    class Blind(Drawn):
        render = gymnasium.Env.render

    with pytest.raises(ValueError, match=r"Blind has no render\(\); write one"):
        make_env(Blind(None), pixels=True, time_limit=5).reset()


def test_without_a_display_mujoco_and_pygame_draw_off_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "SDL_VIDEODRIVER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    render_without_display()
    assert (os.environ["MUJOCO_GL"], os.environ["SDL_VIDEODRIVER"]) == ("egl", "dummy")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    render_without_display()
    assert os.environ["MUJOCO_GL"] == "osmesa"


@pytest.mark.parametrize(("platform", "display"), [("linux", ":0"), ("darwin", None), ("win32", None)])
def test_where_there_is_a_display_nothing_is_set(
    monkeypatch: pytest.MonkeyPatch, platform: str, display: str | None
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "SDL_VIDEODRIVER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr(rendering.sys, "platform", platform)
    render_without_display()
    assert "MUJOCO_GL" not in os.environ
    assert "SDL_VIDEODRIVER" not in os.environ
