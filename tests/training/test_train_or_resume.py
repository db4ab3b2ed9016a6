"""`--go-on`: one command begins a run, goes on with it, or says that it is finished; no other run is touched."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_run import small

from worldloom_rl import cli
from worldloom_rl.recipes import dreamerv3, tdmpc2
from worldloom_rl.recipes.tdmpc2 import Config, State, TDMPC2Recipe
from worldloom_rl.training import loop
from worldloom_rl.training.owner import Owner
from worldloom_rl.training.run_directory import RunDirectory
from worldloom_rl.training.train_or_resume import is_finished, train_or_resume

OLDER = Path(__file__).parents[1] / "saved_by_0_6" / "run-tdmpc2"


class Killed(BaseException):
    """Ends a run where nothing is saved."""


class Dying(TDMPC2Recipe):
    """TD-MPC2 that comes to its end with an update of that number."""

    last = 0

    def update(self, state: State) -> dict[str, torch.Tensor]:
        if state.updates == self.last:
            raise Killed
        return super().update(state)


def cut(config: Config, updates: int) -> None:
    recipe = Dying()
    recipe.last = updates
    with pytest.raises(Killed):
        train_or_resume(recipe, config)


def logged(run: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in (run / "logs" / "csv" / "scalars").rglob("*.csv")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """50 steps without an interruption, a checkpoint every 20."""
    return loop.train(tdmpc2.RECIPE, small(tmp_path_factory.mktemp("whole") / "run", checkpoint_every=20))


@pytest.fixture
def copied(whole: RunDirectory, tmp_path: Path) -> Config:
    """The same run elsewhere, finished; its configuration."""
    shutil.copytree(whole.path, tmp_path / "run")
    return small(tmp_path / "run", checkpoint_every=20)


@pytest.mark.parametrize("updates", [0, 45], ids=["before its first checkpoint", "after some"])
def test_a_run_that_was_cut_off_ends_as_the_one_that_was_not(updates: int, whole: RunDirectory, tmp_path: Path) -> None:
    config = small(tmp_path / "run", checkpoint_every=20)
    cut(config, updates)
    run = RunDirectory(tmp_path / "run")
    assert bool(run.checkpoints.all()) == bool(updates)
    assert not is_finished(tdmpc2.RECIPE, config)
    assert train_or_resume(tdmpc2.RECIPE, config).path == run.path
    ours, theirs = (folder.checkpoints.latest() / "model" / "model.safetensors" for folder in (run, whole))
    assert ours.read_bytes() == theirs.read_bytes()
    assert logged(run.path)["return.csv"] == logged(whole.path)["return.csv"]  # evaluations are told once
    assert is_finished(tdmpc2.RECIPE, config)


def test_a_finished_run_is_left_as_it_is(copied: Config) -> None:
    path = Path(str(copied.run_directory))
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    assert train_or_resume(tdmpc2.RECIPE, copied).path == path
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


def test_a_run_that_is_being_taken_further_is_not_finished(copied: Config) -> None:
    further = dataclasses.replace(copied, steps=60)
    RunDirectory(str(copied.run_directory)).change_config(steps=60)  # as resume --steps does first
    assert not is_finished(tdmpc2.RECIPE, further)


def test_a_run_that_0_6_finished_is_finished(tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(OLDER, tmp_path / "run"))
    config = dataclasses.replace(loop.read_config(tdmpc2.RECIPE, run), run_directory=str(run.path))
    assert is_finished(tdmpc2.RECIPE, config) == (run.path / "result.json").exists()
    with pytest.raises(ValueError, match="--suite published was given, none expected"):
        is_finished(tdmpc2.RECIPE, dataclasses.replace(config, suite="published"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 70}, r"--steps 70 was given, 50 expected\. A run is taken further by .*resume .* --steps 70"),
        ({"steps": 40}, r"--steps 40 was given, 50 expected\. Give the options of that run"),
        ({"seed": 3}, r"--seed 3 was given, 0 expected\. Give the options of that run, or another --run-directory"),
        ({"env": "Acrobot-v1"}, "--env Acrobot-v1 was given, Pendulum-v1 expected"),
        ({"time_limit": None}, "--time-limit None was given, 15 expected"),
        ({"overrides": ()}, "--overrides nothing was given, num_samples=8 num_elites=2"),
        ({"preset": "5m", "device": "cuda"}, "--preset 5m was given, tiny expected; --device cuda was given, cpu exp"),
    ],
)  # fmt: skip
def test_another_configuration_is_refused_by_the_options_that_differ(
    changes: dict[str, Any], said: str, copied: Config
) -> None:
    before = sorted(Path(str(copied.run_directory)).rglob("*"))
    with pytest.raises(ValueError, match=said):
        train_or_resume(tdmpc2.RECIPE, dataclasses.replace(copied, **changes))
    assert sorted(Path(str(copied.run_directory)).rglob("*")) == before


def test_a_run_of_another_recipe_is_refused(copied: Config) -> None:
    config = dreamerv3.Config(env="Pendulum-v1", run_directory=copied.run_directory)
    with pytest.raises(ValueError, match="is a run of the recipe 'tdmpc2', not of 'dreamerv3'"):
        train_or_resume(dreamerv3.RECIPE, config)


@pytest.mark.parametrize("lost", [("result.json",), ("result.json", "checkpoints")], ids=["begun", "only just begun"])
def test_a_run_that_another_process_works_on_is_refused_and_left_as_it_is(
    lost: tuple[str, ...], copied: Config
) -> None:
    run = Path(str(copied.run_directory))
    (run / lost[0]).unlink()
    for folder in lost[1:]:
        shutil.rmtree(run / folder)
    owner = Owner(run)
    before = sorted(run.rglob("*"))
    with pytest.raises(BlockingIOError, match="is in use by process"):
        train_or_resume(tdmpc2.RECIPE, copied)
    assert sorted(run.rglob("*")) == before
    owner.release()


def test_the_command_begins_goes_on_and_says_that_it_is_finished(
    copied: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(str(copied.run_directory))
    options = ["--env", "Pendulum-v1", "--time-limit", "15", "--steps", "50", "--seed-steps", "30",
               "--eval-every", "1000", "--eval-episodes", "1", "--final-eval-episodes", "1", "--checkpoint-every", "20",
               "--overrides", *copied.overrides]  # fmt: skip
    command = ["train", "tdmpc2", *options, "--run-directory", str(run), "--go-on"]
    (run / "result.json").unlink()  # killed just before its end
    cli.main(command)
    assert f"{run} holds curve.png" in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text())["agent_steps"] == 50
    cli.main(command)
    assert capsys.readouterr().out == f"{run} is finished: 50 steps, nothing is left to do.\n"
    (run / "README.md").unlink()  # killed just after it
    cli.main(command)
    assert (run / "README.md").exists()
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--seed", "1"])
    assert stopped.value.code == 2
    assert "--seed 1 was given, 0 expected" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["train", "tdmpc2", *options, "--go-on"])
    assert "name its directory, --run-directory" in capsys.readouterr().err


def test_the_module_of_an_environment_that_was_named_is_trusted_on_another_machine(
    copied: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere_games.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    run = RunDirectory(str(copied.run_directory))
    run.change_config(env="elsewhere_games:Any-v0")
    with pytest.raises(ValueError, match="repeat the command with --trust"):
        run.read_config()
    assert is_finished(tdmpc2.RECIPE, dataclasses.replace(copied, env="elsewhere_games:Any-v0"))
