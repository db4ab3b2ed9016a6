"""A sweep on Ray: a killed run goes on by itself, a stopped sweep ends on the next call, nothing is left running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytestmark = pytest.mark.process

# A step takes its time, so that there is a middle in which to kill; a module that only this directory holds.
MODULE = """
import time, gymnasium
from gymnasium.envs.classic_control import PendulumEnv

class Slow(PendulumEnv):
    def step(self, action):
        time.sleep(0.02)
        return super().step(action)

gymnasium.register("Slow-v0", Slow, max_episode_steps=20)
"""
OPTIONS = ("--cpus", "0.5", "--envs", "slow_pendulum:Slow-v0", "--presets", "tiny", "1m", "--seeds", "0", "1",
           "--steps", "120", "--seed-steps", "60", "--checkpoint-every", "20", "--eval-episodes", "1",
           "--final-eval-episodes", "1", "--no-first-evaluation", "--overrides", "num_samples=8", "num_elites=2",
           "num_policy_trajectories=2", "iterations=1", "batch_size=8")  # fmt: skip
COMMAND = (sys.executable, "-W", "ignore", "-c", "from worldloom_rl.cli import main; main()", "sweep", "tdmpc2")
# The loopback alone, with an address that Ray would take for one that others reach.
NAMESPACE = ("unshare", "-rn", "sh", "-c",
             'ip link set lo up; ip addr add 10.9.9.9/32 dev lo; ip route add default dev lo src 10.9.9.9; exec "$@"',
             "sh")  # fmt: skip
SECONDS = 240.0  # for anything that is waited for; the whole takes a minute on two cores


def namespace() -> tuple[str, ...]:
    """What begins a command in a network of its own, where that is allowed."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return ()
    allowed = subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    return NAMESPACE if allowed else ()


def processes(session: int) -> dict[int, str]:
    """The processes of a session that run, with their names."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, numbers = file.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        state, _, _, own = numbers.split()[:4]
        if int(own) == session and state != "Z":
            found[int(file.parent.name)] = name
    return found


def listening(process: int) -> set[str]:
    """Addresses, as the system writes them, on which something listens in the network of a process."""
    lines = [
        line.split()
        for kind in ("tcp", "tcp6")
        for line in Path(f"/proc/{process}/net/{kind}").read_text().splitlines()
    ]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A"}


class Sweep:
    """A driver of a sweep in a session of its own."""

    def __init__(self, directory: Path) -> None:
        self.output = directory / "output.txt"
        command = [*namespace(), *COMMAND, "--directory", str(directory / "sweep"), *OPTIONS]
        with self.output.open("a") as file:
            self.driver = subprocess.Popen(
                command, cwd=directory, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        until = time.monotonic() + SECONDS
        while not condition():
            assert self.driver.poll() is None, f"ended before {what}:\n{self.output.read_text()}"
            assert time.monotonic() < until, f"no {what}:\n{self.output.read_text()}"
            time.sleep(0.1)

    def end(self) -> None:
        for process in processes(self.driver.pid):
            os.kill(process, signal.SIGKILL)
        self.driver.wait()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[], Sweep]]:
    (tmp_path / "slow_pendulum.py").write_text(MODULE)
    begun: list[Sweep] = []

    def start() -> Sweep:
        begun.append(Sweep(tmp_path))
        return begun[-1]

    yield start
    for sweep in begun:
        sweep.end()


def owner(run: Path) -> int:
    """The process that works on a run; 0 if nobody does."""
    try:
        return int(json.loads((run / ".owner").read_text())["process"])
    except (OSError, ValueError):
        return 0


def test_a_killed_run_goes_on_and_a_stopped_sweep_ends_on_the_next_call(
    begin: Callable[[], Sweep], tmp_path: Path
) -> None:
    runs = [tmp_path / "sweep" / f"tdmpc2-slow_pendulum-Slow-v0-{preset}-seed{seed}"
            for preset in ("tiny", "1m") for seed in (0, 1)]  # fmt: skip
    first, log = runs[0], Path(f"{runs[0]}.log")
    sweep = begin()
    sweep.wait_for(lambda: owner(first) and list(first.glob("checkpoints/step_*")), "checkpoint")
    killed = owner(first)
    if namespace():
        assert listening(sweep.driver.pid) <= {
            "0100007F",
            "0000000000000000FFFF00000100007F",
            "00000000000000000000000001000000",
        }
    os.kill(killed, signal.SIGKILL)
    sweep.wait_for(lambda: "Goes on after" in log.read_text(), "process that goes on")
    assert owner(first) != killed
    sweep.driver.send_signal(signal.SIGTERM)
    assert sweep.driver.wait(SECONDS) == 143
    assert processes(sweep.driver.pid) == {}
    assert f"Go on: worldloom resume {first}" in log.read_text()  # it was saved where it was
    assert not (first / "result.json").exists()

    sweep = begin()
    assert sweep.driver.wait(SECONDS) == 0, sweep.output.read_text()
    assert processes(sweep.driver.pid) == {}
    assert "4 finished" in sweep.output.read_text()
    for run in runs:
        assert json.loads((run / "result.json").read_text())["agent_steps"] == 120
        assert (run / "README.md").exists()
