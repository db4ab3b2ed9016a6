"""What a run can be told besides its model: the memory of replay, success, loggers, and what it leaves for a person."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest
from gymnasium import spaces
from recipes.test_dreamerv3_recipe import SMALL, small

from worldloom_rl import cli
from worldloom_rl.commands.finish import finish_run
from worldloom_rl.recipes import dreamerv3, tdmpc2
from worldloom_rl.training import loop
from worldloom_rl.training.run_logs import RunLogs

# ------------------------------------------------------------------ memory


@pytest.mark.parametrize("recipe", [dreamerv3, tdmpc2])
def test_replay_keeps_no_more_gigabytes_than_allowed(recipe: Any, tmp_path: Path) -> None:
    config = recipe.Config(env="CartPole-v1", steps=100_000, replay_gb=0.002, **episodic(recipe))
    state = recipe.make_state(config)
    for _ in range(50):
        state.source.add(state.source.collect())
    state.close()
    allocated = state.source.replay._ring.capacity * state.source.replay.bytes_per_row
    assert 0.0019e9 < allocated <= 0.002e9
    leaves = state.source.replay._storage._storage.values(True, True)
    assert sum(leaf.nbytes for leaf in leaves) <= allocated


def episodic(recipe: Any) -> dict[str, Any]:
    return {"episodic": True} if recipe is tdmpc2 else {}


def test_a_replay_that_does_not_fit_says_how_much_it_needs() -> None:
    with pytest.raises(ValueError, match=r"allow at least .* gigabytes and 66 rows"):
        dreamerv3.make_state(dreamerv3.Config(env="CartPole-v1", replay_gb=1e-6))


def test_a_large_replay_is_memory_mapped_in_the_run_directory_and_removed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[bool] = []
    scratch = tmp_path / "run" / "replay"

    class Watched(dreamerv3.DreamerV3Recipe):
        def update(self, state: Any) -> Any:
            seen.append(any(scratch.rglob("*.memmap")))
            return super().update(state)

    memmapped = loop.train(Watched(), small(tmp_path / "run", memmap_above_gb=1e-9))
    assert seen
    assert all(seen)
    assert not scratch.exists()
    in_memory = dreamerv3.train(small(tmp_path / "other"))
    results = [json.loads((run.path / "result.json").read_text()) for run in (memmapped, in_memory)]
    assert results[0]["final_returns"] == results[1]["final_returns"]
    assert "replay GB" in capsys.readouterr().out


# ------------------------------------------------------------------ success


class Reach(gymnasium.Env[np.ndarray, np.ndarray]):
    """A place on a line; whoever is beyond 0.5 at some step has succeeded. Says so under the name it is given."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, name: str, render_mode: str | None = None) -> None:
        self.name = name

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        self.first = self.place
        return self.place, {}

    def step(self, action: np.ndarray) -> Any:
        self.place = np.clip(self.place + 0.1 * action, -1, 1).astype(np.float32)
        info = {self.name: bool(self.first[0] > 0.5)} if self.name else {}
        return self.place, float(self.place[0]), False, False, info


for name in ("success", "is_success", ""):
    gymnasium.register(f"Reach-{name or 'mute'}-v0", lambda name=name, **options: Reach(name), max_episode_steps=10)


@pytest.mark.parametrize("name", ["success", "is_success"])
def test_the_success_that_an_environment_tells_is_reported(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = dreamerv3.train(small(tmp_path / "run", env=f"Reach-{name}-v0", final_eval_episodes=20))
    final = json.loads((run.path / "result.json").read_text())["evaluations"][-1]
    assert len(final["successes"]) == 20
    rate = sum(final["successes"]) / 20
    assert 0 < rate < 0.6  # a quarter of the starts
    assert f"success rate {rate:.2f}" in capsys.readouterr().out
    cli.main(["eval", str(run.path), "--episodes", "4"])
    assert "success rate" in capsys.readouterr().out


def test_an_environment_that_tells_of_no_success_has_no_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = dreamerv3.train(small(tmp_path / "run", env="Reach-mute-v0"))
    assert json.loads((run.path / "result.json").read_text())["evaluations"][-1]["successes"] == []
    assert "success" not in capsys.readouterr().out


# ------------------------------------------------------------------ what a run leaves


def test_a_run_on_images_leaves_a_picture_and_an_animation(tmp_path: Path) -> None:
    config = small(tmp_path / "run", env="worldloom/Catch-v0", overrides=(*SMALL, "depth=2"))
    run = dreamerv3.train(config)
    finish_run(run.path)
    assert (run.path / "imagination.png").read_bytes().startswith(b"\x89PNG")
    frames = imageio.mimread(run.path / "imagination.gif", memtest=False)
    assert len(frames) == 41  # the observations of the episode, cut by its time limit
    assert frames[0].shape[:2] == (64 * 4 + 8, 3 * (64 * 4 + 8))
    first, last = (np.asarray(frames[place])[0, 0, :3].astype(int) for place in (0, -1))
    assert first[1] > first[0]  # green while it observes
    assert last[0] > last[2]  # orange while it imagines


def test_weights_and_biases_is_asked_for_by_name() -> None:
    with pytest.raises(ValueError, match='logger must be "wandb"'):
        small(Path("run"), logger="wand")
    if importlib.util.find_spec("wandb") is None:
        with pytest.raises(ImportError, match=r"pip install 'worldloom-rl\[wandb\]'"):
            small(Path("run"), logger="wandb")


def test_logs_beyond_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    run = RunLogs(tmp_path)
    for steps in (10, 20, 30):
        run.log({"update/loss": steps / 10, "collection/return": 1.0}, steps)
    run.close()
    file = tmp_path / "logs" / "csv" / "scalars" / "update" / "loss.csv"
    again = RunLogs(tmp_path)
    with open(file, "a") as cut_off:
        cut_off.write("40")
    again.cut(20, 0)
    again.log({"update/loss": 9.0}, 30)
    again.close()
    assert file.read_text().split() == ["10,1.0", "20,2.0", "30,9.0"]
    table = (tmp_path / "metrics.csv").read_text().split()
    assert table == ["agent_steps,collection/return,update/loss", "10,1.0,1.0", "20,1.0,2.0", "30,,9.0"]
    assert len(list(tmp_path.rglob("events.out.tfevents*"))) == 1


@pytest.mark.parametrize("recipe", [dreamerv3, tdmpc2])
def test_cuda_graphs_are_refused_where_the_device_records_none(recipe: Any) -> None:
    with pytest.raises(ValueError, match="cuda_graphs needs a CUDA device, got 'cpu'"):
        recipe.Config(env="CartPole-v1", cuda_graphs=True)
