"""A kept result has a name of its own, and all that its run is judged by."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from keep_run import kept, name_of, short
from recorded_tasks import write_vectors

from worldloom_rl.recipes.options import DreamerV3RunConfig, TDMPC2RunConfig

SAVED = Path(__file__).parents[1] / "saved_by_0_6" / "run-tdmpc2"
TWO = ("Pendulum-v1", "MountainCarContinuous-v0")
ON_PENDULUM: dict[str, Any] = {
    "env": "Pendulum-v1", "preset": "tiny", "overrides": [], "seed": 0, "env_kwargs": [], "time_limit": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "changes", "name"),
    [
        ("tdmpc2", {}, "tdmpc2-Pendulum-v1-tiny-seed0.json"),
        ("tdmpc2", {"env_kwargs": ["g=14"]}, "tdmpc2-Pendulum-v1-g14-tiny-seed0.json"),
        ("tdmpc2", {"env_kwargs": ["g=-1.4", "path=a/b"]}, "tdmpc2-Pendulum-v1-g-1.4+patha-b-tiny-seed0.json"),
        ("tdmpc2", {"time_limit": 50}, "tdmpc2-Pendulum-v1-limit50-tiny-seed0.json"),
        ("tdmpc2", {"overrides": ["horizon=5"]}, "tdmpc2-Pendulum-v1-tiny-horizon5-seed0.json"),
        (
            "tdmpc2-finetune",
            {"env_kwargs": ["g=14"], "started_from": "runs/pend-g10-0", "data": []},
            "tdmpc2-finetune-Pendulum-v1-g14-tiny-from-pend-g10-0-seed0.json",
        ),
        ("dreamerv3", {"bfloat16": True}, "dreamerv3-Pendulum-v1-tiny-bfloat16-seed0.json"),
        ("dreamerv3-offline", {"data": ["a/d-0"]}, "dreamerv3-offline-Pendulum-v1-tiny-of-d-0-seed0.json"),
        (
            "tdmpc2-offline",
            {"env": "", "tasks": ["Pendulum-v1", "dmc:cartpole-balance"], "data": ["Pendulum-v1=p-0", "b-0"]},
            "tdmpc2-offline-Pendulum-v1+cartpole-balance-tiny-of-p-0+b-0-seed0.json",
        ),
    ],
)
def test_the_name_of_a_result_tells_it_from_others(recipe: str, changes: dict[str, Any], name: str) -> None:
    assert name_of({"recipe": recipe, "config": {**ON_PENDULUM, **changes}}) == name


@pytest.mark.parametrize(
    ("counts", "name"),
    [
        ({"processes": 1, "config": {"actors": 2}}, "tdmpc2-Pendulum-v1-tiny-2-actors-seed0.json"),
        ({"processes": 2}, "tdmpc2-Pendulum-v1-tiny-2-processes-seed0.json"),
    ],
)
def test_the_name_tells_how_many_collected_or_learned(counts: dict[str, Any], name: str) -> None:
    config = {**ON_PENDULUM, **counts.get("config", {})}
    assert name_of({"recipe": "tdmpc2", **counts, "config": config}) == name


def test_a_long_part_of_a_name_still_tells_its_end() -> None:
    texts = ["+".join([*(f"override_{number}=1" for number in range(9)), last]) for last in ("a=1", "a=2")]
    first, second = map(short, texts)
    assert first != second
    assert max(len(first), len(second)) <= 60


def written(folder: Path, recipe: str, config: Any, returns: list[float], tasks: list[str]) -> Path:
    """A finished run of that configuration."""
    checkpoint = folder / "checkpoints" / "step_000000000_000000009"
    checkpoint.mkdir(parents=True)
    torch.save({"episode_returns": []}, checkpoint / "learning.pt")
    told = dataclasses.asdict(config)
    (folder / "config.json").write_text(json.dumps({"recipe": recipe, "config": told}))
    last = {"agent_steps": 0, "updates": 9, "returns": returns, "tasks": tasks}
    result = {
        "recipe": recipe, "config": told, "agent_steps": 0, "environment_steps": 0, "updates": 9, "clock": "updates",
        "evaluations": [last], "final_returns": returns, "final_mean_return": fmean(returns),
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def single_task_run(folder: Path) -> Path:
    """A run of Pendulum-v1, and what its last evaluation came to."""
    shutil.copytree(SAVED, folder / "single")
    told = json.loads((SAVED / "config.json").read_text())
    (folder / "single" / "result.json").write_text(json.dumps({**told, "final_mean_return": -77.0}))
    return folder / "single"


def test_an_agent_of_recordings_is_kept_by_task_beside_those_who_recorded(tmp_path: Path) -> None:
    single_task_run(tmp_path)
    write_vectors(tmp_path / "cars.h5", episodes=2, steps=4, width=2, reward=0.5)
    options: dict[str, Any] = {"time_limit": 15, "episodic": False, "rescale_observations": False}
    data = ("single", "MountainCarContinuous-v0=cars.h5")
    config = TDMPC2RunConfig(tasks=TWO, data=data, **options)
    played = [task for task in TWO for _ in range(2)]
    found = kept(written(tmp_path / "run", "tdmpc2-offline", config, [-1.0, -3.0, 5.0, 7.0], played))
    assert "compared" not in found
    pendulum, cars = (found["by_task"][task] for task in TWO)
    assert (pendulum["returns"], cars["returns"]) == ([-1.0, -3.0], [5.0, 7.0])
    assert (pendulum["runs"], cars["runs"]) == ({"single": -77.0}, {})
    assert len(pendulum["behaviour_returns"]) == 6
    assert max(pendulum["behaviour_returns"]) < -20
    assert cars["behaviour_returns"] == [2.0, 2.0]
    assert all(value < 0 for value in pendulum["random_returns"])
    assert all(-2 < value <= 0 for value in cars["random_returns"])  # the price of its actions
    assert found["random_returns"] == pendulum["random_returns"] + cars["random_returns"]


def test_an_agent_of_one_recorded_task_is_kept_likewise(tmp_path: Path) -> None:
    single_task_run(tmp_path)
    config = DreamerV3RunConfig(env="Pendulum-v1", data=("single",), time_limit=15, rescale_observations=False)
    found = kept(written(tmp_path / "run", "dreamerv3-offline", config, [-1.0, -3.0], []))
    assert list(found["by_task"]) == ["Pendulum-v1"]
    assert found["by_task"]["Pendulum-v1"]["runs"] == {"single": -77.0}
    assert found["random_returns"] == found["by_task"]["Pendulum-v1"]["random_returns"]
