"""Two processes make one run: one directory, one clock, a replay each; whatever ends one of them ends both, and says why.

The processes are forks of this one, which has imported everything; one test starts them by torchrun.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from worldloom_rl import cli
from worldloom_rl.recipes import dreamerv3, tdmpc2  # noqa: F401  # before the forks

pytestmark = pytest.mark.process

ENOUGH = 120.0  # seconds for whatever two processes do here
SMALL = [
    "batch_size=4",
    "batch_length=4",
    "replay_context=1",
    "horizon=2",
    "depth=2",
    "deterministic=16",
    "hidden=8",
    "groups=2",
    "classes=4",
    "blocks=2",
    "units=8",
    "imagination_starts=2",
    "num_bins=21",
    "updates_per_step=0.5",
]
FEW = ["--final-eval-episodes", "3", "--eval-episodes", "3", "--no-first-evaluation", "--time-limit", "10"]
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

    def ended(self) -> list[int | None]:
        """The exit statuses."""
        until = time.monotonic() + ENOUGH
        for fork in self.forks:
            fork.join(max(0.0, until - time.monotonic()))
        found = [fork.exitcode for fork in self.forks]
        for fork in self.forks:
            fork.kill()
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


def run_of(*arguments: str | Path) -> list[str]:
    return [str(argument) for argument in arguments]


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
    replays = [
        {n.removeprefix("rank1/"): v for n, v in files.items() if n.startswith(p)} for p in ("replay/", "rank1/replay/")
    ]
    assert len(replays[0]) == len(replays[1]) > 1
    assert replays[0] != replays[1], "each collected its own rows"
    assert (undisturbed / "README.md").exists()
    assert not list(undisturbed.glob("rank*"))
