"""What a person is told of a run whose files, environment or libraries are not what they were."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import PendulumEnv
from test_resume import make

from worldloom_rl import atomic, cli
from worldloom_rl.training import loop
from worldloom_rl.training.run_directory import RunDirectory

BOUND = 2.0


class Changing(PendulumEnv):
    """Pendulum whose action's bound is read when it is made."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.action_space = spaces.Box(-BOUND, BOUND, (1,))


gymnasium.register("Changing-v0", entry_point=Changing, max_episode_steps=15)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 70 of 90 steps of TD-MPC2 with checkpoints at 60 and 70."""
    recipe, config = make(
        "tdmpc2", "pendulum", tmp_path_factory.mktemp("stopped") / "run", env="Changing-v0", steps=70, seed_steps=50,
        eval_episodes=1, final_eval_episodes=1, eval_every=1000,
    )  # fmt: skip
    run = loop.train(recipe, config)
    run.change_config(steps=90)
    (run.path / "result.json").unlink()
    return run.path


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "a [bold]run"))


def told_by(*arguments: object, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert len(told) < 1000
    return told


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "weights flipped": ("model/model.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\x7f")),
    "optimiser cut": ("learning.pt", lambda file: file.write_bytes(file.read_bytes()[:5000])),
    "rows missing": ("replay/rows-*", lambda file: file.unlink()),
    "rows a pipe": ("replay/rows-*", pipe),
    "rows flipped": ("replay/rows-*", lambda file: (pipe(file), file.unlink(), file.write_bytes(b"{}"))),
    "generators a pipe": ("collection.pt", pipe),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_way_back_to_a_whole_one_leads_there(
    damage: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern, harm = DAMAGES[damage]
    newest = RunDirectory(run).checkpoints.latest()
    file = next(newest.glob(pattern))
    if damage == "rows missing":  # the last, which no earlier checkpoint has
        file = max(newest.glob(pattern), key=lambda path: path.stat().st_mtime)
    harm(file)
    told = told_by("resume", run, capsys=capsys)
    assert str(file) in told
    assert f"of 60 agent steps, is whole; go back to it: worldloom resume '{run}' --from 60" in told
    if damage == "weights flipped":
        assert "whole; go back to it" in told_by("eval", run, capsys=capsys)
    if damage in ("optimiser cut", "rows a pipe"):
        cli.main(["resume", str(run), "--from", "60"])
        assert json.loads((run / "result.json").read_text())["agent_steps"] == 90


def test_another_environment_than_the_runs_is_refused_and_nothing_changes(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("test_damaged_runs.BOUND", 1.0)
    before = sorted((file, file.stat().st_mtime_ns) for file in run.rglob("*") if file != run)
    told = told_by("resume", run, capsys=capsys)
    assert "the action space was Box(-2.0, 2.0, (1,), float32) and is Box(-1.0, 1.0, (1,), float32)" in told
    assert sorted((file, file.stat().st_mtime_ns) for file in run.rglob("*") if file != run) == before


@pytest.mark.parametrize("seen", ["another", "none"])
def test_other_libraries_are_told_and_of_a_run_of_version_0_6_nothing_is_compared(
    seen: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "environment.json"
    if seen == "another":
        surroundings = json.loads(file.read_text())
        surroundings["versions"]["gymnasium"] = "0.0.1"
        file.write_text(json.dumps(surroundings))
    else:
        file.unlink()
    cli.main(["resume", str(run)])
    told = " ".join(capsys.readouterr().out.split())
    assert ("gymnasium was 0.0.1 and is " in told) == (seen == "another")
    assert json.loads(file.read_text())["versions"]["gymnasium"] != "0.0.1"


def test_a_kill_while_logs_are_cut_loses_no_row(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is replaced by one that is whole."""
    losses = run / "logs/csv/scalars/update/loss.csv"  # a run as short as this one may have logged none
    losses.parent.mkdir(exist_ok=True)
    losses.touch()
    files = sorted((run / "logs/csv/scalars").rglob("*.csv"))
    for file in files:
        file.write_text("".join(f"{step},0.5\n" for step in range(60)) + "1000,9\n")
    original, done = os.replace, 0

    def replace(source: str, target: str) -> None:
        nonlocal done
        assert len(Path(source).read_text().splitlines()) >= 59
        done += 1
        if done == 2:
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr(atomic.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        RunDirectory(run).logs.cut(59, 1)
    assert all(len(file.read_text().splitlines()) >= 60 for file in files)


def test_a_full_disk_is_told_with_what_is_saved(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from worldloom_rl.training import checkpoint

    def no_room(*arguments: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr(checkpoint.torch, "save", no_room)
    whole = sorted(RunDirectory(run).checkpoints.all())
    told = told_by("resume", run, capsys=capsys)
    assert "The checkpoint of 80 steps could not be written to" in told
    assert f"Go on: worldloom resume '{run}', from an earlier checkpoint with --from 60" in told
    assert sorted(RunDirectory(run).checkpoints.all()) == whole
    assert not list((run / "checkpoints").glob(".*"))
