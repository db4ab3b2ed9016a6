"""What a run learns from recorded pixels is, bit for bit, what it would have learned from collecting them."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.modules import RandomPolicy

from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.envs import make_env
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.specs.saved import spec_to_json
from worldloom_rl.training.recorded import open_as_seen

h5py = pytest.importorskip("h5py")

SIZE = 16


class Rendered(gymnasium.Env):  # type: ignore[type-arg]
    """Renders 20 × 28 images of chance, which are not those of an agent, and keeps them; terminal after 5 steps."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    render_mode = "rgb_array"
    shown: list[list[np.ndarray]] = []  # noqa: RUF012 - of all environments, an episode each

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[np.ndarray, dict[str, object]]:
        super().reset(seed=seed)
        self.image = self.np_random.integers(0, 256, (20, 28, 3), np.uint8)
        self.shown.append([self.image])
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        self.image = self.np_random.integers(0, 256, (20, 28, 3), np.uint8)
        self.shown[-1].append(self.image)
        return np.zeros(2, np.float32), float(action.sum()), len(self.shown[-1]) == 6, False, {}

    def render(self) -> np.ndarray:
        return self.image


def collected(steps: int) -> tuple[TensorDict, list[list[np.ndarray]], torch.Tensor, torch.Tensor]:
    """Arrival rows of whole episodes, what was rendered, and the actions and rewards of each step."""
    Rendered.shown.clear()
    env = make_env(Rendered, pixels=True, image_size=SIZE, time_limit=50, seed=1)
    Rendered.shown.clear()
    torch.manual_seed(0)
    transitions = env.rollout(steps, RandomPolicy(env.full_action_spec), break_when_any_done=False)
    rows = Arrivals(["pixels"])(transitions.unsqueeze(0)).rows
    shown = [episode for episode in Rendered.shown if len(episode) == 6]
    return rows, shown, transitions["action"], transitions["next", "reward"].flatten()


def test_rows_of_recorded_pixels_are_those_that_are_collected(tmp_path: Path) -> None:
    expected, shown, actions, rewards = collected(20)
    assert len(shown) == 4
    for number, frames in enumerate(shown):
        steps = slice(5 * number, 5 * number + 5)
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["pixels"], file["actions"] = np.stack(frames), actions[steps].numpy()
            file["rewards"], file["terminated"] = rewards[steps].numpy(), True
    env = make_env(Rendered, pixels=True, image_size=SIZE, time_limit=50)
    episodes = open_as_seen([str(tmp_path)], "Rendered", *specs_of(env), SIZE)
    assert episodes.lengths.tolist() == [6] * 4
    found = episodes.rows(torch.arange(24))
    assert found["pixels"].shape == (24, 3, SIZE, SIZE)
    for key in ("pixels", "previous_action", "reward", "is_init", "terminated", "truncated"):
        assert found[key].dtype == expected[key].dtype, key
        assert torch.equal(found[key], expected[key][:24]), key


def test_pixels_of_a_runs_replay_are_those_that_were_collected(tmp_path: Path) -> None:
    expected = collected(20)[0]
    env = make_env(Rendered, pixels=True, image_size=SIZE, time_limit=50)
    replay = Replay(capacity=40, window=2, batch_size=1, by="window")
    for row in expected.flatten().split(7):
        replay.extend(row)
    checkpoint = tmp_path / "checkpoints" / "step_000000020"
    (checkpoint / "model").mkdir(parents=True)
    replay.save(checkpoint / "replay")
    observed, taken = map(spec_to_json, specs_of(env))
    (checkpoint / "model" / "config.json").write_text(json.dumps({"observation_spec": observed, "action_spec": taken}))
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "dreamerv3", "config": {"env": "Rendered"}}))
    episodes = open_as_seen([str(tmp_path)], "Rendered", *specs_of(env), SIZE)
    found = episodes.rows(torch.arange(int(episodes.ends[-1])))
    assert episodes.lengths.tolist() == [6] * 4
    assert found["pixels"].dtype == torch.uint8
    for key, value in found.items():
        assert torch.equal(value, expected.flatten()[key]), key
