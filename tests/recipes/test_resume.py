"""A run that was stopped at any moment goes on bit for bit like one that was not."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from multiprocessing import Process
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from torch import Tensor

from worldloom_rl.pretrained import format as pretrained
from worldloom_rl.recipes import dreamerv3, tdmpc2, tokens
from worldloom_rl.training import evaluate as evaluation_of_episodes
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import load_state, save_checkpoint
from worldloom_rl.training.recipe import Recipe
from worldloom_rl.training.run_directory import RunDirectory

TDMPC2 = (
    "num_samples=16", "num_elites=4", "num_policy_trajectories=2", "iterations=2", "batch_size=8", "min_seed_steps=30",
    "updates_per_step=0.5",
)  # fmt: skip
DREAMERV3 = ("batch_size=4", "batch_length=8", "imagination_starts=2", "horizon=3", "updates_per_step=0.5")
TOKENS = (
    "batch_size=4", "depth=2", "width=16", "horizon=3", "min_seed_steps=20", "tokenizer_updates=15",
    "behavior_start=25", "attention_heads=2", "updates_per_step=1",
)  # fmt: skip
FAMILIES = {  # and where each is tried
    "dreamerv3": ("cartpole", "catch", "pendulum"),
    "tdmpc2": ("cartpole", "catch", "pendulum"),
    "tokens": ("catch",),
}
SHORT = {("dreamerv3", "catch"), ("tdmpc2", "cartpole"), ("tokens", "catch")}  # the others in .ci/run alone
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "pendulum": {"env": "Pendulum-v1", "time_limit": 15},
    "cartpole": {"env": "CartPole-v1", "num_envs": 2, "time_limit": 14},
    "catch": {"env": "worldloom/Catch-v0", "time_limit": 15},
}


def make(family: str, environment: str, directory: Path, **changes: Any) -> tuple[Recipe, Any]:
    """A recipe and the configuration of a run of seconds, with a checkpoint every 20 agent steps."""
    values = {
        "steps": 64, "eval_every": 25, "eval_episodes": 2, "final_eval_episodes": 2, "checkpoint_every": 20,
        "run_directory": str(directory), **ENVIRONMENTS[environment],
    }  # fmt: skip
    if family == "dreamerv3":
        return dreamerv3.RECIPE, dreamerv3.Config(**{**values, "overrides": DREAMERV3, **changes})
    if family == "tokens":
        return tokens.RECIPE, tokens.Config(**{**values, "steps": 60, "overrides": TOKENS, **changes})
    values |= {"overrides": TDMPC2, "episodic": environment == "cartpole", "seed_steps": 30}
    return tdmpc2.RECIPE, tdmpc2.Config(**{**values, **changes})


def recorded(recipe: Recipe, losses: dict[int, Tensor], stop: Callable[[int], bool]) -> Recipe:
    """The recipe, with the loss of each update kept, and an end without a word where `stop` says so."""

    class Watched(type(recipe)):  # type: ignore[misc]
        def update(self, state: Any) -> dict[str, Tensor]:
            metrics = super().update(state)
            losses[state.updates] = metrics["loss"].clone()
            if stop(state.updates):
                raise _Killed
            return metrics

    return Watched()


class _Killed(BaseException):
    """Stands for the end of the process: nothing in the library catches it."""


def weights(run: RunDirectory) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(run.checkpoints.latest() / "model" / "model.safetensors")


Whole = tuple[RunDirectory, dict[int, Tensor]]


@pytest.fixture(scope="module")
def make_whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Whole]:
    """A run that nothing stopped and the losses of its updates; each is made once."""

    @cache
    def whole(family: str, environment: str) -> Whole:
        recipe, config = make(family, environment, tmp_path_factory.mktemp("whole") / "run")
        losses: dict[int, Tensor] = {}
        return loop.train(recorded(recipe, losses, lambda update: False), config), losses

    return whole


@pytest.mark.parametrize(
    ("family", "environment"),
    [
        pytest.param(f, e, marks=[pytest.mark.long] * ((f, e) not in SHORT))
        for f, places in FAMILIES.items()
        for e in places
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    family: str, environment: str, tmp_path: Path, make_whole: Callable[[str, str], Whole]
) -> None:
    exact = {"replay_codec": "exact"} if family == "dreamerv3" else {}  # the numbers of the whole run, which has none
    _stop_and_go_on(family, environment, tmp_path / "stopped", make_whole(family, environment), **exact)


@pytest.mark.process
@pytest.mark.usefixtures("fork_server")
def test_with_environments_in_processes_it_is_the_serial_run_stopped_or_not(
    tmp_path: Path, make_whole: Callable[[str, str], Whole]
) -> None:
    serial = make_whole("tdmpc2", "cartpole")
    _stop_and_go_on("tdmpc2", "cartpole", tmp_path / "stopped", serial, parallel="processes")


def _stop_and_go_on(family: str, environment: str, directory: Path, made: Whole, **changes: Any) -> None:
    whole, expected = made
    recipe, stopped = make(family, environment, directory, **changes)
    last = max(expected)

    found: dict[int, Tensor] = {}
    with pytest.raises(_Killed):
        loop.train(recorded(recipe, found, lambda update: update == last - 3), stopped)
    run = RunDirectory(directory)
    before = int(run.checkpoints.latest().name.rpartition("_")[2])
    assert 0 < before < last - 3
    found.clear()
    loop.resume(recorded(recipe, found, lambda update: False), run)
    assert sorted(found) == list(range(before, last + 1))
    assert all(torch.equal(found[update], expected[update]) for update in found)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(run).items())


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_resume
test_resume.make_run(*sys.argv[2:4], Path(sys.argv[4]), "train")
"""


def make_run(family: str, environment: str, directory: Path, how: str) -> None:
    """Trains or resumes on one thread; each update's loss is in a file at once, whatever happens then."""
    torch.set_num_threads(1)
    recipe, config = make(family, environment, directory, steps=110)
    losses: dict[int, Tensor] = {}
    with directory.with_suffix(".losses").open("a") as file:

        def write(update: int) -> bool:
            file.write(f"{update} {losses[update].item().hex()}\n")
            file.flush()
            return False

        if how == "resume":
            loop.resume(recorded(recipe, losses, write), RunDirectory(directory))
        else:
            loop.train(recorded(recipe, losses, write), config)


def make_run_into(file: Path, *of_run: Any) -> None:
    """The same, in a process of its own whose output goes to a file."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream.fileno())
    make_run(*of_run)


def losses_of(directory: Path) -> list[tuple[int, str]]:
    """Updates and losses in the order in which they were made, also those made twice."""
    lines = directory.with_suffix(".losses").read_text().splitlines()
    return [(int(line.split()[0]), line.split()[1]) for line in lines if len(line.split()) == 2]


def wait_for(condition: Callable[[], bool], running: Callable[[], bool], output: Path) -> None:
    begin = time.monotonic()
    while not condition():
        assert running(), output.read_text()
        assert time.monotonic() - begin < 240
        time.sleep(0.03)


@pytest.mark.process
@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize("environment", sorted(ENVIRONMENTS))
@pytest.mark.parametrize("family", ["dreamerv3", "tdmpc2"])
def test_killed_again_and_again_it_ends_as_if_it_never_had_been(
    family: str, environment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed, output = tmp_path / "whole", tmp_path / "killed", tmp_path / "output"
    make_run(family, environment, whole, "train")
    expected = dict(losses_of(whole))

    run = RunDirectory(killed)
    for attempt, updates in enumerate([6, 2, 14, 4]):
        made = len(losses_of(killed)) if attempt else 0
        how = "resume" if attempt else "train"
        process = Process(target=make_run_into, args=(output, family, environment, killed, how))
        process.start()
        wait_for(lambda: (killed / "checkpoints").is_dir() and len(run.checkpoints.all()) > 0, process.is_alive, output)
        wait_for(lambda: len(losses_of(killed)) >= made + updates, process.is_alive, output)  # noqa: B023
        process.kill()
        process.join()
        process.close()
        assert run.checkpoints.all()
    capsys.readouterr()
    make_run(family, environment, killed, "resume")  # in a process that hashes otherwise than those before
    assert "in the middle of its episodes" in capsys.readouterr().out
    found = losses_of(killed)
    assert len(found) > len(expected)  # some were made again
    assert all(expected[update] == loss for update, loss in found)
    assert max(dict(found)) == max(expected)
    assert all(torch.equal(tensor, weights(RunDirectory(whole))[name]) for name, tensor in weights(run).items())
    assert not list((killed / "checkpoints").glob(".*"))


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_once_and_tells_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    directory, output = tmp_path / "run", tmp_path / "output"
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), "dreamerv3", "pendulum", str(directory)]
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    running = lambda: process.poll() is None  # noqa: E731
    wait_for(lambda: directory.with_suffix(".losses").exists() and len(losses_of(directory)) > 15, running, output)
    process.send_signal(number)
    process.wait()
    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT)
    assert f"Go on: worldloom resume {directory}" in output.read_text()
    made = losses_of(directory)[-1][0]
    assert int(RunDirectory(directory).checkpoints.latest().name.rpartition("_")[2]) == made + 1


class Unkept(PendulumEnv):
    """Pendulum with something whose state nobody can read."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.hidden = iter([1])


gymnasium.register("Unkept-v0", entry_point=Unkept, max_episode_steps=15)


@pytest.mark.parametrize("family", ["dreamerv3", "tdmpc2"])
def test_an_environment_that_cannot_be_kept_begins_a_new_episode_and_the_run_says_why(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, config = make(family, "pendulum", tmp_path / "run", env="Unkept-v0")
    last = {"dreamerv3": 12, "tdmpc2": 22}[family]  # after a checkpoint
    with pytest.raises(_Killed):
        loop.train(recorded(recipe, {}, lambda update: update == last), config)
    run = RunDirectory(tmp_path / "run")
    state = load_state(recipe, config, run.checkpoints.latest())
    rows = len(state.source.replay)
    assert rows % 16, "the last episode is open"
    while len(state.source.replay) == rows:
        loop.step(recipe, state)
    state.close()
    stored = state.source.replay._storage[: rows + 2]
    assert stored["is_init"][rows].item()
    assert stored["truncated"][rows - 1].item()
    loop.resume(recipe, run)
    printed = " ".join(capsys.readouterr().out.split())
    assert "with new episodes, because" in printed
    assert "hidden is of type builtins.list_iterator" in printed


WRITES = (
    (os, "fsync"), (os, "replace"), (os, "link"), (builtins, "open"), (Path, "write_text"), (torch, "save"),
    (shutil, "rmtree"), (pretrained, "save_file"),
)  # fmt: skip


@pytest.mark.parametrize("evaluation", [1, 2, 3])
def test_a_signal_during_an_evaluation_ends_it_and_the_run_goes_on_bit_for_bit(
    evaluation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_whole: Callable[[str, str], Whole]
) -> None:
    whole, _ = make_whole("dreamerv3", "pendulum")
    recipe, stopped = make("dreamerv3", "pendulum", tmp_path / "stopped")
    original, begun = evaluation_of_episodes.evaluate, 0

    def evaluate(*arguments: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun == evaluation:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(evaluation_of_episodes, "evaluate", evaluate)
    with pytest.raises(SystemExit) as ended:
        loop.train(recipe, stopped)
    assert ended.value.code == 143
    run = loop.resume(recipe, RunDirectory(tmp_path / "stopped"))
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(run).items())
    results = [json.loads((each.path / "result.json").read_text()) for each in (whole, run)]
    assert results[0]["evaluations"] == results[1]["evaluations"]


@pytest.mark.parametrize("family", [pytest.param("dreamerv3", marks=pytest.mark.long), "tdmpc2"])
def test_a_disk_that_fails_at_any_step_of_a_checkpoint_leaves_the_one_before(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, config = make(family, "pendulum", tmp_path / "run", eval_every=1000)
    run = loop.train(recipe, config)
    state = load_state(recipe, config, run.checkpoints.latest())
    state.source.moved(run.checkpoints.latest())
    calls, fails_at = 0, 0

    def failing(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise OSError("No space left on device")
            return original(*arguments, **options)

        return call

    def content(folder: Path) -> dict[str, bytes]:
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    failed = 0
    while True:
        loop.step(recipe, state)
        before = run.checkpoints.latest()
        expected = content(before)
        calls, fails_at = 0, failed + 1
        with monkeypatch.context() as patch:
            for module, name in WRITES:
                patch.setattr(module, name, failing(getattr(module, name)))
            with suppress(OSError):
                save_checkpoint(recipe, state, run.checkpoints)
        if calls < fails_at:  # it got to its end
            break
        failed += 1
        assert not list(run.checkpoints.directory.glob(".*-")), "half a checkpoint is left"
        if run.checkpoints.latest() == before:
            assert content(before) == expected
        else:  # only the removal of an older one failed
            assert run.checkpoints.latest().name.endswith(f"{state.updates:09d}")
    assert failed > 15
    again = load_state(recipe, config, run.checkpoints.latest())
    assert again.updates == state.updates
    assert torch.equal(again.sample()["reward"], state.sample()["reward"])
    again.close()
    state.close()
