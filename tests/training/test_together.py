"""Two processes make one run: one directory and clock, a replay each; whatever ends one ends both, and says why.

The processes are forks of this one, which has imported everything; one test starts them by torchrun.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from io import BytesIO
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase

from worldloom_rl import cli
from worldloom_rl.data.run_episodes import open_run
from worldloom_rl.recipes import dreamerv3, jepa, tokens  # noqa: F401  # before the forks
from worldloom_rl.recipes.tdmpc2 import TDMPC2Recipe
from worldloom_rl.training import meeting
from worldloom_rl.training.evaluate import Evaluation
from worldloom_rl.training.recipe import RunState
from worldloom_rl.training.run import Run

pytestmark = pytest.mark.process

ENOUGH = 120.0  # seconds for whatever two processes do here
SMALL = ["batch_size=4", "batch_length=4", "replay_context=1", "horizon=2", "depth=2", "deterministic=16", "hidden=8",
         "groups=2", "classes=4", "blocks=2", "units=8", "imagination_starts=2", "num_bins=21",
         "updates_per_step=0.5"]  # fmt: skip
FEW = ["--eval-episodes", "3", "--final-eval-episodes", "3", "--no-first-evaluation", "--time-limit", "10"]
DREAMERV3 = ["train", "dreamerv3", "--env", "Pendulum-v1", "--steps", "48", "--eval-every", "24", "--checkpoint-every",
             "16", *FEW, "--overrides", *SMALL]  # fmt: skip
TDMPC2 = ["train", "tdmpc2", "--env", "Pendulum-v1", "--steps", "48", "--seed-steps", "24", "--eval-every", "40",
          "--checkpoint-every", "24", *FEW, "--overrides", "batch_size=8", "num_samples=8", "num_elites=4",
          "iterations=1", "updates_per_step=0.25"]  # fmt: skip


class Two:
    """Two processes with the same command line, as torchrun would start them; what they wrote, and how they ended.

    Args:
        first: called in a process before the command, with its number.
    """

    def __init__(self, folder: Path, arguments: list[str], first: Callable[[int], None] = lambda rank: None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.files = [folder / f"rank{rank}.txt" for rank in range(2)]
        context = multiprocessing.get_context("fork")
        self.forks: list[BaseProcess] = []
        for rank, file in enumerate(self.files):
            meeting = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            target = context.Process(target=follow, args=(file, meeting, arguments, first), daemon=True)
            target.start()
            self.forks.append(target)

    def ended(self, *, waits_for: int = 2) -> list[int | None]:
        """The exit statuses, of the first so many; all are ended then."""
        until = time.monotonic() + ENOUGH
        for fork in self.forks[:waits_for]:
            fork.join(max(0.0, until - time.monotonic()))
        found = [fork.exitcode for fork in self.forks[:waits_for]]
        for fork in self.forks:
            fork.kill()
            fork.join(10)
        return found

    def lines(self, rank: int) -> list[str]:
        return self.files[rank].read_text().splitlines()


def follow(file: Path, meeting: Mapping[str, str], arguments: list[str], first: Callable[[int], None]) -> None:
    """One of the processes."""
    with open(file, "wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.update(meeting)
    first(int(meeting["RANK"]))
    try:
        cli.main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def contents(folder: Path) -> dict[str, bytes]:
    """The newest checkpoint's files, without what tells of time."""
    newest = max(folder.glob("checkpoints/step_*"))
    files = (file for file in newest.rglob("*") if file.is_file())
    return {str(file.relative_to(newest)): file.read_bytes() for file in files if file.name != "manifest.json"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of DreamerV3 by two processes that came to its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    both = Two(folder, [*DREAMERV3, "--run-directory", str(folder / "run")])
    assert both.ended() == [0, 0], [both.lines(rank) for rank in range(2)]
    assert both.lines(1) == []
    assert "on Pendulum-v1 by 2 processes: 48 agent steps" in both.lines(0)[0]
    return folder / "run"


def test_two_processes_make_one_run(undisturbed: Path) -> None:
    result = json.loads((undisturbed / "result.json").read_text())
    assert result["processes"] == 2
    assert result["agent_steps"] == 48
    assert [len(made["returns"]) for made in result["evaluations"]] == [3, 3]
    assert len(set(result["final_returns"])) == 3, "each played its own episodes"
    files = contents(undisturbed)
    assert {name for name in files if "learning.pt" in name} == {"learning.pt", "rank1/learning.pt"}
    whose = ("replay/", "rank1/replay/")
    replays = [{name.removeprefix("rank1/"): files[name] for name in files if name.startswith(at)} for at in whose]
    assert len(replays[0]) == len(replays[1]) > 1
    assert replays[0] != replays[1], "each collected its own rows"
    assert (undisturbed / "README.md").exists()
    assert not list(undisturbed.glob("rank*"))


AnyRun = Run[Any, Any, Any]


def before_step(count: int, does: Callable[[], None], of: str = "agent_steps") -> None:
    """This process does something after its run has gone so many steps, or updates."""
    after_step = Run.after_step

    def patched(run: AnyRun, phase: str) -> None:
        if getattr(run.state, of) >= count:
            does()
        after_step(run, phase)

    Run.after_step = patched  # type: ignore[method-assign]  # in a fork


def killed(rank: int, count: int = 40, of: str = "agent_steps") -> None:
    if rank:
        before_step(count, lambda: os.kill(os.getpid(), signal.SIGKILL), of)


LEARNING = {"optimizer", "model_optimizer", "policy_optimizer", "schedule", "running_returns", "sampling"}


def assert_alike(run: Path, undisturbed: Path) -> None:
    """The newest checkpoints are the same bytes."""
    ours, theirs = contents(run), contents(undisturbed)
    assert ours.keys() == theirs.keys()
    # Seconds that training took stand in one file; in two, how many episodes the collector began, which nobody reads.
    loose = ["learning.pt", "collection.pt", "rank1/collection.pt"]
    assert [name for name in ours if ours[name] != theirs[name] and name not in loose] == []
    for name in loose:
        here, there = (torch.load(BytesIO(files[name])) for files in (ours, theirs))
        for entry in here.keys() & LEARNING if name == loose[0] else ("goes_on",):
            assert str(here[entry]) == str(there[entry])
        if name != loose[0]:
            assert torch.equal(here["random"]["torch"], there["random"]["torch"])


def test_a_killed_process_ends_the_other_and_both_go_on_bit_for_bit(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    both = Two(tmp_path, [*DREAMERV3, "--run-directory", str(run)], killed)
    assert both.ended() == [2, -signal.SIGKILL]
    last = both.lines(0)[-1]
    assert "updates: another of the 2 processes does not answer: it was killed, hangs, or its machine is gone" in last
    assert f"Go on: torchrun --nproc-per-node 2 --no-python worldloom resume {run}" in last
    assert [folder.name[:14] for folder in sorted(run.glob("checkpoints/*"))] == ["step_000000016", "step_000000032"]

    with pytest.raises(SystemExit):
        cli.main(["resume", str(run)])
    for told in ("Goes on after 32 steps", f"{run} is finished: 48 steps"):
        both = Two(tmp_path, [*DREAMERV3, "--run-directory", str(run), "--go-on"])
        assert both.ended() == [0, 0], [both.lines(rank) for rank in range(2)]
        assert told in both.lines(0)[1 if told.startswith("Goes") else 0]
        assert both.lines(1) == []
    assert_alike(run, undisturbed)


def test_a_run_of_two_is_not_gone_on_with_by_one(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["resume", str(undisturbed), "--steps", "60"])
    told = capsys.readouterr().err
    assert "was written by 2 processes, each with a replay and environments of its own, and 1 would go on" in told
    assert json.loads((undisturbed / "config.json").read_text())["config"]["steps"] == 48


def without_numbers(rank: int) -> None:
    """The second one's third batch has a reward that is none."""
    if not rank:
        return
    sample, calls = RunState.sample, []

    def patched(state: RunState) -> TensorDictBase:  # type: ignore[type-arg]
        batch = sample(state)
        calls.append(batch)
        return batch.apply(lambda value: value * torch.nan) if len(calls) == 3 else batch

    RunState.sample = patched  # type: ignore[method-assign]  # in a fork


def broken(rank: int) -> None:
    def does() -> None:
        raise ValueError("the second simulator is gone.")

    if rank:
        before_step(20, does)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (without_numbers, "updates: In process 1 of 2: 'loss_consistency' is not finite"),
        (broken, "the second simulator is gone."),
    ],
)
def test_what_ends_one_ends_the_other_with_its_reason(
    first: Callable[[int], None], reason: str, tmp_path: Path
) -> None:
    both = Two(tmp_path, [*TDMPC2, "--run-directory", str(tmp_path / "run")], first)
    assert both.ended() == [2, 2]
    for rank in range(2):
        assert reason in both.lines(rank)[-1]


def hangs(rank: int) -> None:
    meeting._PATIENCE = timedelta(seconds=2)
    if rank:
        before_step(20, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def test_a_process_that_hangs_is_not_waited_for_without_end(tmp_path: Path) -> None:
    both = Two(tmp_path, [*TDMPC2, "--run-directory", str(tmp_path / "run")], hangs)
    assert both.ended(waits_for=1) == [2]
    assert "another of the 2 processes does not answer" in both.lines(0)[-1]


def stopped_in_a_step(rank: int) -> None:
    if not rank:
        before_step(30, lambda: os.kill(os.getpid(), signal.SIGTERM))


def stopped_in_an_evaluation(rank: int) -> None:
    evaluate = TDMPC2Recipe.evaluate

    def patched(*arguments: Any) -> Evaluation:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    if rank:
        TDMPC2Recipe.evaluate = patched  # type: ignore[method-assign]  # in a fork


@pytest.mark.parametrize(("first", "steps"), [(stopped_in_a_step, 30), (stopped_in_an_evaluation, 40)])
def test_a_signal_to_one_stops_both_at_the_same_step(first: Callable[[int], None], steps: int, tmp_path: Path) -> None:
    both = Two(tmp_path, [*TDMPC2, "--run-directory", str(tmp_path / "run")], first)
    assert both.ended() == [128 + signal.SIGTERM] * 2
    assert f"Stopped and saved after {steps} steps. Go on: torchrun" in both.lines(0)[-1]
    newest = max((tmp_path / "run").glob("checkpoints/step_*"))
    assert newest.name.startswith(f"step_{steps:09d}")
    assert (newest / "rank1" / "learning.pt").exists()


def test_what_cannot_be_shared_equally_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    both = Two(tmp_path, [*TDMPC2[:-5], "batch_size=7", "--run-directory", str(tmp_path / "run")])
    assert both.ended() == [2, 2]
    for rank in range(2):
        assert "batch_size is 7, which 2 processes cannot share equally" in both.lines(rank)[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "dies"),
    [
        (["tokens", "--env", "worldloom/Catch-v0", "--steps", "32", "--checkpoint-every", "16", "--overrides",
          "context=4", "horizon=2", "width=16", "depth=1", "attention_heads=2", "vocabulary=8", "batch_size=4",
          "min_seed_steps=12", "updates_per_step=0.25"], (28, "agent_steps")),
        (["jepa", "--env", "worldloom/PointRoom-v0", "--steps", "4", "--checkpoint-every", "2", "--collect", "60",
          "--overrides", "batch_size=4"], (3, "updates")),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_the_other_families_learn_together_and_go_on_bit_for_bit(
    arguments: list[str], dies: tuple[int, str], tmp_path: Path
) -> None:
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    command = ["train", *arguments[:7], *FEW, *arguments[7:], "--go-on", "--run-directory"]
    both = Two(tmp_path, [*command, str(undisturbed)])
    assert both.ended() == [0, 0], [both.lines(rank) for rank in range(2)]
    made = json.loads((undisturbed / "result.json").read_text())["evaluations"][-1]
    assert len(made["returns"]) == 3 or made["statistics"]
    found = open_run(undisturbed)  # the rows of both
    assert found.lengths.sum() > (60 if "jepa" in arguments else 32)

    assert Two(tmp_path, [*command, str(run)], lambda rank: killed(rank, *dies)).ended() == [2, -signal.SIGKILL]
    both = Two(tmp_path, [*command, str(run)])
    assert both.ended() == [0, 0], [both.lines(rank) for rank in range(2)]
    assert "Goes on after " in both.lines(0)[1]
    assert_alike(run, undisturbed)


MORTAL = """
import os, pathlib, signal
from gymnasium.envs.classic_control import PendulumEnv

class Mortal(PendulumEnv):
    steps, mark = 0, pathlib.Path(__file__).with_name("died")

    def step(self, action):
        self.steps += 1
        if self.steps == 18 and os.environ["RANK"] == "1" and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)
"""


def test_torchrun_trains_and_starts_again_what_was_killed(tmp_path: Path) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL)
    arguments = ["--env", "mortal:Mortal", "--no-episodic", "--no-rescale-observations", *TDMPC2[4:]]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1", "-m"]
    command += ["worldloom_rl.cli", "train", "tdmpc2", *arguments, "--run-directory", str(tmp_path / "run"), "--go-on"]
    here = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * ENOUGH, check=False, env=here)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    assert "another of the 2 processes does not answer: it was killed, hangs, or its machine is gone" in done.stderr
    assert "Goes on after 24 steps" in done.stdout
    assert done.stdout.count("evaluation after 40 steps") == 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["processes"] == 2
