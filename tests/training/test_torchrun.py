"""Several processes are never silent: what they cannot do together is refused by name, before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldloom_rl import cli
from worldloom_rl.commands.recipes import RECIPES, find_recipe
from worldloom_rl.training import torchrun


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    "command", ["check", "finetune", "sweep", "eval", "imagine", "report", "compare", "list", "import"]
)
def test_a_command_for_one_process_is_refused_by_several(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"worldloom {command} is work for one process, but torchrun started 2" in refused(capsys, command, "x")


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("tdmpc2", "--env", "Pendulum-v1", "--device", "cuda"), "NCCL was never tried), not on 'cuda'"),
        (("dreamerv3", "--env", "Pendulum-v1", "--device", "cuda", "--cuda-graphs"), "--cuda-graphs"),
        (("dreamerv3", "--env", "Pendulum-v1", "--compile"), "--compile"),
        (("tdmpc2", "--tasks", "dmc:cup-catch", "dmc:cartpole-balance"), "--tasks"),
        (("tdmpc2", "--env", "Pendulum-v1", "--data", "x"), "'tdmpc2-offline'; recorded data (--data)"),
        (("dreamerv3", "--env", "Pendulum-v1", "--data", "x"), "'dreamerv3-offline'; recorded data (--data)"),
        (("jepa", "--data", "x"), "recorded data (--data)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_several_cannot_share_is_refused_by_name(
    arguments: tuple[str, ...], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    line = refused(capsys, "train", *arguments, "--run-directory", str(run))
    assert line.startswith("worldloom: 2 processes cannot share this run: ")
    assert named in line
    assert not run.exists()


def test_the_recipes_by_which_several_learn_are_told() -> None:
    assert [name for name in RECIPES if find_recipe(name).together] == ["dreamerv3", "jepa", "tdmpc2", "tokens"]


def test_a_recipe_made_of_one_that_learns_together_says_it_for_itself() -> None:
    class Silent(type(find_recipe("tdmpc2"))):  # type: ignore[misc]
        name = "silent"

    class Told(Silent):
        together = True

    assert (Silent.together, Told.together) == (False, True)


def test_processes_that_cannot_meet_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert "but RANK" in refused(capsys, "list")
    monkeypatch.setenv("WORLD_SIZE", "many")
    assert "got 'many'" in refused(capsys, "list")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert torchrun.processes() == 1
    assert torchrun.command() == ""
