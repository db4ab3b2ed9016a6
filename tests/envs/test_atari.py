"""The Atari presets over an emulator whose frames are known, and over the real one where it is installed."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torchrl.envs.utils import check_env_specs

from worldloom_rl.envs import episode_length, make_env
from worldloom_rl.envs.atari import PRESETS, Atari, make_atari


class Console(gymnasium.Env[Any, Any]):
    """Frame n is (200 − n, n, blue) all over; each frame gives the reward 1; the game is over after `ends` frames."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, ends: int = 10**9, blue: int = 0, render_mode: str = "rgb_array", **options: Any) -> None:
        self.ends, self.blue, self.render_mode, self.options = ends, blue, render_mode, options
        self.observation_space = spaces.Box(0, 255, (128,), np.uint8)
        self.action_space = spaces.Discrete(18 if options.get("full_action_space") else 6)
        self.games = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.actions: list[int] = []
        self.games += 1
        return np.zeros(128, np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert len(self.actions) < self.ends, "stepped after the end of the game"
        self.actions.append(int(action))
        return np.zeros(128, np.uint8), 1.0, len(self.actions) >= self.ends, False, {}

    def render(self) -> np.ndarray:
        frame = len(self.actions)
        return np.full((210, 160, 3), (200 - frame, frame, self.blue), np.uint8)


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("ale_py")
    module.ALEInterface = SimpleNamespace(setLoggerMode=lambda mode: None)
    module.LoggerMode = SimpleNamespace(Error=2)
    monkeypatch.setitem(sys.modules, "ale_py", module)
    monkeypatch.setitem(
        gymnasium.registry, "ALE/Fake-v5", gymnasium.envs.registration.EnvSpec("ALE/Fake-v5", entry_point=Console)
    )


def console(env: gymnasium.Env[Any, Any]) -> Console:
    inner = env.unwrapped
    assert isinstance(inner, Console)
    return inner


def test_the_presets_ask_the_emulator_for_what_the_benchmarks_say(emulator: None) -> None:
    common = {"frameskip": 1, "obs_type": "ram", "max_num_frames_per_episode": None}
    standard = {"repeat_action_probability": 0.25, "full_action_space": True}
    assert console(make_atari("Fake", PRESETS["ale"])).options == common | standard
    small = {"repeat_action_probability": 0.0, "full_action_space": False}
    assert console(make_atari("Fake", PRESETS["ale100k"])).options == common | small


@pytest.mark.parametrize(("preset", "shape", "actions"), [("ale", (1, 96, 96), 18), ("ale100k", (3, 64, 64), 6)])
def test_agents_see_channels_first_and_half_an_hour_of_steps(
    emulator: None, preset: str, shape: tuple[int, ...], actions: int
) -> None:
    env = make_env(f"{preset}:Fake")
    check_env_specs(env)
    assert env.reset()["observation"].shape == shape
    assert env.action_spec.shape == (actions,)
    assert episode_length(env) == 27_000


def test_a_step_is_four_frames_and_shows_the_maximum_of_the_last_two(emulator: None) -> None:
    env = make_atari("Fake", PRESETS["ale100k"])
    env.reset(seed=0)
    frames = console(env).actions
    before = len(frames)
    image, reward, terminated, truncated, _ = env.step(5)
    assert (reward, terminated, truncated) == (4.0, False, False)
    assert frames[before:] == [5, 5, 5, 5]
    assert (image == (200 - (before + 3), before + 4, 0)).all()
    assert env.render().shape == (210, 160, 3)
    assert (env.render() == image[0, 0]).all()


def test_the_first_image_of_an_episode_is_its_own_first_frame(emulator: None) -> None:
    env = make_atari("Fake", PRESETS["ale100k"])
    for seed in (0, 1):
        image, _ = env.reset(seed=seed)
        frame = len(console(env).actions)
        assert (image == (200 - frame, frame, 0)).all()
        env.step(1)


def test_episodes_begin_with_0_to_30_no_ops(emulator: None) -> None:
    env = make_atari("Fake", PRESETS["ale"])
    counts = set()
    for seed in range(400):
        env.reset(seed=seed)
        counts.add(len(console(env).actions))
        assert not any(console(env).actions)
    assert counts == set(range(31))


def test_a_game_that_ends_under_no_ops_is_begun_again(emulator: None) -> None:
    env = Atari(Console(ends=5), PRESETS["ale"])
    for seed in range(50):
        env.reset(seed=seed)
        assert len(console(env).actions) < 5
    assert console(env).games > 50


def test_the_end_of_a_game_stops_the_step_and_terminates(emulator: None) -> None:
    env = Atari(Console(ends=50), PRESETS["ale"])
    env.reset(seed=0)
    left = 50 - len(console(env).actions)
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, truncated, _ = env.step(1)
        rewards.append(reward)
        assert not truncated
    assert sum(rewards) == left
    assert rewards[-1] == (left % 4 or 4)


def test_the_time_limit_truncates_and_does_not_terminate(emulator: None) -> None:
    env = make_env("ale:Fake", time_limit=5)
    steps = env.rollout(100)
    assert episode_length(env) == len(steps) == 5
    assert steps["next", "reward"].flatten().tolist() == [4.0] * 5
    assert steps["next", "truncated"].flatten().tolist() == [False] * 4 + [True]
    assert not steps["next", "terminated"].any()


def test_action_repeat_comes_on_top_of_the_four_frames(emulator: None) -> None:
    env = make_env("ale:Fake", action_repeat=2)
    assert env.rollout(2)["next", "reward"].flatten().tolist() == [8.0, 8.0]
    assert episode_length(env) == 13_500


@pytest.mark.parametrize(
    ("colour", "gray"), [((255, 0, 0), 76), ((0, 255, 0), 149), ((0, 0, 255), 29), ((255, 255, 255), 255)]
)
def test_gray_is_the_luma_rounded_down(
    emulator: None, monkeypatch: pytest.MonkeyPatch, colour: tuple[int, int, int], gray: int
) -> None:
    monkeypatch.setattr(Console, "render", lambda self: np.full((210, 160, 3), colour, np.uint8))
    image, _ = make_atari("Fake", PRESETS["ale"]).reset(seed=0)
    assert image.shape == (96, 96, 1)
    assert (image == gray).all()


def test_resizing_differs_from_pillows_by_at_most_one_level(emulator: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow = pytest.importorskip("PIL.Image")
    picture = np.random.default_rng(0).integers(0, 256, (210, 160, 3)).astype(np.uint8)
    monkeypatch.setattr(Console, "render", lambda self: picture)
    image, _ = make_atari("Fake", PRESETS["ale100k"]).reset(seed=0)
    expected = np.array(pillow.fromarray(picture).resize((64, 64), pillow.Resampling.BILINEAR))
    np.testing.assert_allclose(image.astype(int), expected.astype(int), atol=1)


def test_pixels_are_the_colour_picture_at_the_size_asked_for(emulator: None) -> None:
    pixels = make_env("ale:Fake", pixels=True, frame_stack=2, image_size=32).rollout(2)["next", "pixels"]
    assert (pixels.shape, pixels.dtype) == ((2, 6, 32, 32), torch.uint8)
    assert (pixels[0, 4].int() - pixels[0, 1].int() == 4).all()  # green counts the frames


def test_a_missing_emulator_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ImportError, match=r"worldloom-rl\[atari\]"):
        make_env("ale:Pong")


def test_an_unknown_game_gets_close_matches(emulator: None) -> None:
    with pytest.raises(ValueError, match=r"no 'ale100k:Fkae'. Did you mean ale100k:Fake"):
        make_env("ale100k:Fkae")


@pytest.mark.parametrize(("preset", "shape", "actions"), [("ale", (1, 96, 96), 18), ("ale100k", (3, 64, 64), 6)])
def test_pong_is_played_under_both_presets(
    capfd: pytest.CaptureFixture[str], preset: str, shape: tuple[int, ...], actions: int
) -> None:
    pytest.importorskip("ale_py")
    env = make_env(f"{preset}:Pong", seed=0)
    check_env_specs(env)
    steps = env.rollout(300)
    assert (steps["observation"].shape, steps["observation"].dtype) == ((300, *shape), torch.uint8)
    assert steps["action"].shape == (300, actions)
    assert steps["next", "reward"].unique().tolist() in ([-1.0, 0.0], [-1.0, 0.0, 1.0])
    assert "Stella" not in "".join(capfd.readouterr())


def test_atari_100k_shows_what_the_emulator_draws() -> None:
    pytest.importorskip("ale_py")
    pillow = pytest.importorskip("PIL.Image")
    env = make_atari("Pong", PRESETS["ale100k"])
    image, _ = env.reset(seed=5)
    reference = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)
    reference.reset(seed=5)
    for _ in range(reference.unwrapped.np_random.integers(31)):
        reference.step(0)
    for action in np.random.default_rng(0).integers(6, size=60):
        image, reward, *_ = env.step(int(action))
        frames, rewards = zip(*(reference.step(action)[:2] for _ in range(4)), strict=True)
        picture = pillow.fromarray(np.maximum(frames[2], frames[3]))
        expected = np.array(picture.resize((64, 64), pillow.Resampling.BILINEAR))
        np.testing.assert_allclose(image.astype(int), expected.astype(int), atol=1)
        assert reward == sum(rewards)
