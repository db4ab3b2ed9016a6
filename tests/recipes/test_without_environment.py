"""One task of recorded data that has no environment, as a robot's: γ follows from the length that is told."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from worldloom_rl import cli
from worldloom_rl.commands.check_data import check_data
from worldloom_rl.data import open_episodes
from worldloom_rl.models.tdmpc2.config import discount_for
from worldloom_rl.recipes import tdmpc2, tdmpc2_offline
from worldloom_rl.recipes.options import TDMPC2RunConfig

FEW = ("num_samples=8", "num_elites=2", "num_policy_trajectories=2", "iterations=1", "batch_size=8")


def recordings(folder: Path) -> tuple[str, ...]:
    """Two files, of whose actions the second's reach further."""
    random = np.random.default_rng(0)
    for number, reach in enumerate((0.5, 2.0)):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["observation"] = random.normal(size=(9, 3)).astype(np.float32)
            file["actions"] = np.linspace([-reach] * 2, [reach] * 2, 8).astype(np.float32)
            file["rewards"] = np.ones(8, np.float32)
    return tuple(str(folder / f"{number}.h5") for number in range(2))


def test_it_is_learned_and_judged_from_data_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = recordings(tmp_path)
    config = tdmpc2.Config(
        env="gripper", data=data, episode_length=40, steps=2, overrides=FEW, run_directory=str(tmp_path / "run")
    )
    run = tdmpc2_offline.train(config)
    cli.main(["eval", str(run.path)])
    assert "loss" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"gripper is known by its data alone \(episode_length\)"):
        config.make_env(1, 0)


def test_gamma_is_that_of_the_length_and_bounds_are_those_of_all_files(tmp_path: Path) -> None:
    config = tdmpc2.Config(env="gripper", data=recordings(tmp_path), episode_length=40, overrides=FEW)
    model = tdmpc2_offline.make_model(config, open_episodes(config.data))
    assert model.config.discount == discount_for(40)
    assert model.action_space.low.tolist() == [-2.0, -2.0]
    assert model.action_space.high.tolist() == [2.0, 2.0]
    told = check_data("gripper", (), config.data, episode_length=40)
    assert "gripper  3         2     40" in told
    assert "not evaluated: no such environment" in told


def test_the_length_is_told_and_never_guessed(tmp_path: Path) -> None:
    data = recordings(tmp_path)
    with pytest.raises(ValueError, match="--episode-length"):
        tdmpc2_offline.make_state(tdmpc2.Config(env="gripper", data=data))
    for wrong in ({"env": "a"}, {"tasks": ("a", "b"), "data": data}):
        with pytest.raises(ValueError, match="episode_length=40 tells the agent steps of an episode where one task"):
            TDMPC2RunConfig(episode_length=40, **wrong)  # type: ignore[arg-type]


def test_an_action_is_the_same_number_in_all_files_of_a_task(tmp_path: Path) -> None:
    near, far = recordings(tmp_path)
    episodes = open_episodes((f"a={near}", f"a={far}", f"b={near}"))
    last = episodes.rows(episodes.ends - 1)
    assert last["task"].tolist() == [0, 0, 1]
    assert last["previous_action"][:, 0].tolist() == [0.25, 1.0, 1.0]
