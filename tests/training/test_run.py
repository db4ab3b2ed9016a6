"""How a run begins and ends: nothing is left of a start that fails, and everything is closed at any end."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchrl.collectors import Collector

from worldloom_rl.recipes import tdmpc2
from worldloom_rl.recipes.tdmpc2 import Config
from worldloom_rl.training import loop, run_directory
from worldloom_rl.training import run as training_run
from worldloom_rl.training.run_directory import RunDirectory

OVERRIDES = ("num_samples=8", "num_elites=2", "num_policy_trajectories=2", "iterations=1", "batch_size=8")


def small(directory: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "env": "Pendulum-v1", "time_limit": 15, "steps": 50, "seed_steps": 30, "overrides": OVERRIDES,
        "eval_every": 1000, "eval_episodes": 1, "final_eval_episodes": 1, "run_directory": str(directory),
    }  # fmt: skip
    return Config(**{**values, **changes})


# ------------------------------------------------------------------ starts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 30}, "give more steps"),
        ({"env": "Pendulun-v1"}, "Did you mean"),
        ({"overrides": ("horzon=3",)}, "horizon"),
        ({"overrides": ("horizon=0",)}, "horizon must be"),
        ({"preset": "tinny"}, "tiny"),
        ({"replay_gb": 1e-9}, "allow at least"),
        ({"device": "nowhere"}, "device 'nowhere' cannot be used: torch sees cpu.*Give one of these: --device"),
        ({"device": "meta"}, "device 'meta' cannot be used: torch sees cpu"),
    ],
)
def test_a_start_that_fails_leaves_nothing_behind(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, RuntimeError), match=message):
        loop.train(tdmpc2.RECIPE, small(tmp_path / "runs" / "mine", **changes))
    assert list(tmp_path.iterdir()) == []
    own = tmp_path / "own"
    own.mkdir()
    (own / "notes.txt").write_text("keep me")
    with pytest.raises((ValueError, RuntimeError), match=message):
        loop.train(tdmpc2.RECIPE, small(own, **changes))
    assert [file.name for file in own.iterdir()] == ["notes.txt"]


def test_a_start_that_fails_closes_its_environments_and_leaves_no_default_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[Any] = []
    closed: list[bool] = []
    original = Config.make_env

    def make_env(self: Config, num_envs: int, seed: int) -> Any:
        env = original(self, num_envs, seed)
        made.append(env)
        close = env.close
        monkeypatch.setattr(env, "close", lambda **options: closed.append(True) or close(**options))
        return env

    monkeypatch.setattr(Config, "make_env", make_env)
    with pytest.raises(ValueError, match="horizon"):
        loop.train(tdmpc2.RECIPE, small(tmp_path, run_directory=None, overrides=("horizon=0",)))
    assert len(closed) == len(made) > 0
    assert list(tmp_path.iterdir()) == []


def test_two_starts_in_one_second_get_a_directory_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20200101-000000")
    runs = [RunDirectory.create(None, "name", "tdmpc2", {}) for _ in range(3)]
    expected = ["name-20200101-000000", "name-20200101-000000-2", "name-20200101-000000-3"]
    assert [run.path.name for run in runs] == expected
    with pytest.raises(KeyError), runs[1].unless_the_start_fails():
        raise KeyError
    assert sorted(folder.name for folder in (tmp_path / "runs").iterdir()) == [expected[0], expected[2]]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("plain", "worldloom resume plain"),
        ("with a space", "worldloom resume 'with a space'"),
        ("it's $HOME [bold]", """worldloom resume 'it'"'"'s $HOME [bold]'"""),
        ("-leading", "worldloom resume ./-leading"),
        ("läuft", "worldloom resume 'läuft'"),
    ],
)
def test_the_command_that_goes_on_is_one_that_a_shell_takes(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory.create(name, "name", "tdmpc2", {})
    assert run.resume_command == command
    assert RunDirectory(shlex.split(command)[-1]).read_config() == ("tdmpc2", {})


def test_a_place_where_no_run_can_be_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("long" * 100)):
        with pytest.raises(OSError, match=r"The run directory .* cannot be made \(.*\); choose another"):
            RunDirectory.create(path, "name", "tdmpc2", {})
    assert (tmp_path / "file").read_text() == "mine"
    monkeypatch.chdir(tmp_path)
    assert len(RunDirectory.create(None, "x" * 400, "tdmpc2", {}).path.name) < 130

    def refuse(*arguments: Any) -> int:
        raise PermissionError(errno.EROFS, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        RunDirectory.create(tmp_path / "deep" / "run", "name", "tdmpc2", {})
    assert not (tmp_path / "deep").exists()


# ------------------------------------------------------------------ configurations of a run


def edited(directory: Path, change: Any) -> RunDirectory:
    run = RunDirectory.create(directory / "run", "name", "tdmpc2", {})
    values = dataclasses.asdict(small(directory / "run"))
    data = {"recipe": "tdmpc2", "config": values}
    change(data)
    (run.path / "config.json").write_text(json.dumps(data))
    return run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["config"].update(stepz=3), "config.json.*'stepz'.*Did you mean 'steps'"),
        (lambda data: data["config"].pop("overrides"), r"config.json lacks the fields \['overrides'\]"),
        (lambda data: data["config"].pop("env"), r"config.json lacks the fields \['env'\]"),
        (lambda data: data["config"].update(steps="many"), "config.json: steps takes a whole number, got 'many'"),
        (lambda data: data["config"].update(overrides="horizon=3"), "overrides takes a tuple of texts"),
        (lambda data: data["config"].update(steps=0), "config.json: steps must be a whole number in"),
        (lambda data: data["config"].update(seed=-1), "config.json: seed must be a whole number in"),
        (
            lambda data: data["config"].update(device="cuda:99"),
            "config.json: device 'cuda:99' cannot be used: torch sees",
        ),
        (lambda data: data.pop("recipe"), 'config.json must have a "recipe"'),
        (lambda data: data.pop("config"), 'config.json must have a "recipe" by name and its "config"'),
        (lambda data: data.update(config=[1]), 'config.json must have a "recipe"'),
        (lambda data: data.update(recipe="jepa"), "is a run of the recipe 'jepa'"),
    ],
)
def test_a_configuration_that_was_edited_wrongly_is_named_with_its_file(
    change: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        loop.read_config(tdmpc2.RECIPE, edited(tmp_path, change))


def test_a_configuration_of_an_older_version_means_what_it_meant_there(tmp_path: Path) -> None:
    older = edited(tmp_path, lambda data: data["config"].pop("first_evaluation"))
    assert loop.read_config(tdmpc2.RECIPE, older).first_evaluation


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '{"recipe": '])
def test_a_broken_configuration_is_named_with_its_file(text: str, tmp_path: Path) -> None:
    run = edited(tmp_path, lambda data: None)
    assert loop.read_config(tdmpc2.RECIPE, run) == small(tmp_path / "run")
    (run.path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        loop.read_config(tdmpc2.RECIPE, run)


# ------------------------------------------------------------------ ends


class Ending(tdmpc2.TDMPC2Recipe):
    """Does something at its 43rd update; tells what it had open."""

    def __init__(self, end: str) -> None:
        self.end = end

    def make_state(self, config: Config) -> tdmpc2.State:
        self.state = super().make_state(config)
        return self.state

    def update(self, state: tdmpc2.State) -> dict[str, Tensor]:
        metrics = super().update(state)
        self.scratch_was_there = any(Path(state.config.run_directory or "", "replay").rglob("*.memmap"))
        if state.updates == 42:
            if self.end == "signal":
                os.kill(os.getpid(), signal.SIGINT)
            elif self.end == "error":
                raise OSError("gone")
            else:
                with torch.no_grad():
                    next(state.model.parameters()).fill_(torch.nan)
        return metrics


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        ("signal", KeyboardInterrupt, None),
        ("error", OSError, "gone"),
        (
            "weights",
            FloatingPointError,
            r"^After \d+ steps and 43 updates: .* is not finite.*"
            r"Go on: worldloom resume \S*run, from an earlier checkpoint with --from \d+$",
        ),
    ],
)
def test_however_a_run_ends_it_closes_environments_and_removes_scratch_files(
    end: str, error: type[BaseException], message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut: list[bool] = []
    original = Collector.shutdown

    def shutdown(self: Collector, *arguments: Any, **options: Any) -> None:
        shut.append(True)
        original(self, *arguments, **options)

    monkeypatch.setattr(Collector, "shutdown", shutdown)
    recipe = Ending(end)
    with pytest.raises(error, match=message):
        loop.train(recipe, small(tmp_path / "run", memmap_above_gb=1e-9, checkpoint_every=10))
    assert recipe.scratch_was_there
    assert not (tmp_path / "run" / "replay").exists()
    assert shut
    # What is left can be gone on from.
    run = RunDirectory(tmp_path / "run")
    for folder in run.checkpoints.all():
        weights = type(recipe.state.model).from_pretrained(folder / "model").state_dict().values()
        assert all(bool(value.isfinite().all()) for value in weights)


class Removed(tdmpc2.TDMPC2Recipe):
    """Whose run directory, or a part of it, is moved away at the third update."""

    def __init__(self, part: Path) -> None:
        self.part = part

    def update(self, state: tdmpc2.State) -> dict[str, Tensor]:
        if state.updates == 3:
            self.part.rename(self.part.with_name("elsewhere"))
        return super().update(state)


@pytest.mark.parametrize("part", ["", "logs"])
def test_a_run_whose_directory_is_removed_ends_with_a_sentence(part: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=f"^{run}, or its logs, was removed or moved while the run went on"):
        loop.train(Removed(run / part), small(run))
    assert (run / part).exists() is False
    (run / "logs" / "tensorboard").mkdir(parents=True)  # TensorBoard's thread writes once more, two minutes later


# ------------------------------------------------------------------ the evaluation before the first step


def evaluated(run: RunDirectory) -> list[int]:
    return [entry["agent_steps"] for entry in json.loads((run.path / "result.json").read_text())["evaluations"]]


def test_the_evaluation_before_the_first_step_says_what_it_is_and_can_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluated(loop.train(tdmpc2.RECIPE, small(tmp_path / "made"))) == [0, 50]
    said = capsys.readouterr().out
    assert "Before the first step the fresh model is evaluated, for at most 120 s; --no-first-evaluation leaves" in said
    left_out = small(tmp_path / "left out", first_evaluation=False, eval_every=40)
    assert evaluated(loop.train(tdmpc2.RECIPE, left_out)) == [40, 50]
    assert "Before the first step" not in capsys.readouterr().out


def test_the_evaluation_before_the_first_step_is_given_up_where_it_takes_too_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "FIRST_EVALUATION_SECONDS", 0.0)
    run = loop.train(tdmpc2.RECIPE, small(tmp_path / "run", eval_every=40))
    assert evaluated(run) == [40, 50]
    assert "It was given up after 0 s: 1 episodes side by side take longer." in capsys.readouterr().out


# ------------------------------------------------------------------ phases


@pytest.mark.parametrize(("rate", "due"), [(0.5, 15), (1.0, 30), (2.0, 60)])
def test_updates_that_the_seed_steps_were_due_are_called_pretraining(rate: float, due: int, tmp_path: Path) -> None:
    overrides = (*OVERRIDES, f"updates_per_step={rate}")
    state = tdmpc2.make_state(small(tmp_path / "run", overrides=overrides))
    phases: list[str] = []
    while state.updates < due + 4:
        before = state.updates
        phase = loop.step(tdmpc2.RECIPE, state)
        phases += [phase] if state.updates > before else []
    state.close()
    assert phases == ["pretraining"] * due + ["training"] * 4


# ------------------------------------------------------------------ what a result tells of its making


def test_a_result_names_commit_and_tree_and_whether_files_differ_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        person = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        command = ["git", "-C", str(tmp_path), *person, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(run_directory, "__file__", str(tmp_path / "code.py"))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # those of a hook that runs the tests
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "code.py").write_text("x = 1\n")
    git("init", "--quiet")
    assert (run_directory.provenance()["commit"], run_directory.provenance()["tree"]) == (None, None)
    git("add", "code.py")
    git("commit", "--quiet", "--message", "one")
    commit, tree = git("rev-parse", "HEAD"), git("rev-parse", "HEAD^{tree}")
    assert (run_directory.provenance()["commit"], run_directory.provenance()["tree"]) == (commit, tree)
    (tmp_path / "code.py").write_text("x = 2\n")
    found = run_directory.provenance()
    assert (found["commit"], found["tree"]) == (f"{commit}-dirty", f"{tree}-dirty")
