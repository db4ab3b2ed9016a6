"""What a sweep makes, shows and refuses, with its runs in this process: Ray's part stands in test_sweep_killed.py."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from worldloom_rl import cli, extras
from worldloom_rl.commands import sweep, sweep_work
from worldloom_rl.commands.sweep_table import Outcome, Row
from worldloom_rl.recipes.options import JEPARunConfig, TDMPC2RunConfig
from worldloom_rl.report.run_progress import RunProgress, read_progress
from worldloom_rl.training.owner import Owner
from worldloom_rl.training.ray_tasks import Lost

MODULE = """
import gymnasium
from gymnasium.envs.classic_control import PendulumEnv

class Failing(PendulumEnv):
    def step(self, action):
        raise OSError(5, "the robot is gone")

gymnasium.register("Failing-v0", Failing, max_episode_steps=10)
"""
OPTIONS = ("--steps", "40", "--time-limit", "20", "--seed-steps", "20", "--eval-episodes", "1", "--final-eval-episodes",
           "1", "--no-first-evaluation", "--overrides", "num_samples=8", "num_elites=2", "num_policy_trajectories=2",
           "iterations=1", "batch_size=8")  # fmt: skip


class InProcess:
    """Stands for Ray's tasks: each call is made here when its end is asked for."""

    def __init__(self, results: Mapping[str, object] | None = None) -> None:
        self.calls: dict[str, Callable[[], object]] = {}
        self.results, self.cancelled = results, False

    def start(self, call: Callable[..., object], arguments: Mapping[str, tuple[Any, ...]], *share: float) -> InProcess:
        self.calls = {name: lambda given=given: call(*given) for name, given in arguments.items()}
        return self

    def __bool__(self) -> bool:
        return bool(self.calls)

    def ended(self, seconds: float) -> Iterator[tuple[str, object]]:
        name, call = next(iter(self.calls.items()))
        del self.calls[name]
        yield name, call() if self.results is None else self.results[name]

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an environment that fails."""
    (tmp_path / "failing_pendulum.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    return use(InProcess(), monkeypatch)


def use(made: InProcess, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    @contextmanager
    def cluster(address: str | None) -> Iterator[InProcess]:
        yield made

    monkeypatch.setattr(sweep_work, "cluster", cluster)
    monkeypatch.setattr(sweep, "require_installed", lambda *module, **told: None)
    return made


def status(*arguments: str) -> object:
    try:
        cli.main(["sweep", "tdmpc2", "--directory", "runs", *arguments, *OPTIONS])
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_a_run_that_fails_shows_its_sentence_and_the_others_go_on(
    here: Path, tasks: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    envs = ("--envs", "failing_pendulum:Failing-v0", "Pendulum-v1", "--seeds", "3")
    assert status(*envs) == 2
    out = capsys.readouterr().out
    assert "2 runs in runs, 2 of them to be made" in out
    assert "1 failed, 1 finished" in out
    assert "the environment raised OSError: [Errno 5] the robot is gone (" in " ".join(out.split())
    failed, made = "tdmpc2-failing_pendulum-Failing-v0-tiny-seed3", "tdmpc2-Pendulum-v1-tiny-seed3"
    assert "Traceback" in (here / "runs" / f"{failed}.log").read_text()
    assert json.loads((here / "runs" / made / "result.json").read_text())["config"]["seed"] == 3
    assert (here / "runs" / made / "README.md").exists()

    assert status(*envs, "--action-repeat", "2") == 2  # of the one that is there, other options
    out = " ".join(capsys.readouterr().out.split())
    assert "--action-repeat 2 was given, None expected" in out
    assert status("--envs", "Pendulum-v1", "--seeds", "3") == 0
    out = capsys.readouterr().out
    assert "1 runs in runs, 0 of them to be made" in out
    assert "40/40" in out
    assert "worldloom compare runs" in out


@pytest.mark.parametrize(
    ("ends", "expected", "said"),
    [
        ([Outcome("finished"), Lost("its process died 6 times")], 2, "its process died 6 times"),
        ([Outcome("failed", "a fault of worldloom: KeyError: 3.", True), Outcome("finished")], 1, "KeyError: 3."),
        ([Outcome("finished"), None], 2, "stopped"),
        ([Outcome("finished")] * 2, 0, "2 finished"),
    ],
)
def test_the_exit_status_says_whether_a_run_failed(
    ends: list[object],
    expected: int,
    said: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"tdmpc2-Pendulum-v1-tiny-seed{seed}" for seed in (0, 1)]
    use(InProcess(dict(zip(names, ends, strict=True))), monkeypatch)
    assert status("--env", "Pendulum-v1", "--seeds", "0", "1") == expected
    assert said in capsys.readouterr().out


def test_on_a_terminal_the_table_stays_in_place(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("LINES", "9")  # too low for all rows
    seeds = [str(seed) for seed in range(8)]
    use(InProcess({f"tdmpc2-Pendulum-v1-tiny-seed{seed}": Outcome("finished") for seed in seeds}), monkeypatch)
    assert status("--env", "Pendulum-v1", "--seeds", *seeds) == 0
    out = capsys.readouterr().out
    assert "\x1b[2K" in out  # lines are written over
    assert "3 waiting, 5 finished" in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", out)
    last = out[out.rindex("8 finished") :]
    assert [seed for seed in seeds if f"seed{seed}" in last] == seeds  # in the end all rows stand there


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_runs_save_and_says_so(
    number: signal.Signals,
    expected: int,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Signalled(InProcess):
        def ended(self, seconds: float) -> Iterator[tuple[str, object]]:
            if self.cancelled:
                yield from super().ended(seconds)
            else:
                signal.raise_signal(number)

    made = use(Signalled({"tdmpc2-Pendulum-v1-tiny-seed0": None}), monkeypatch)
    assert status("--env", "Pendulum-v1", "--seeds", "0") == expected
    assert made.cancelled
    out = capsys.readouterr().out
    assert "Stopping: the runs save where they are." in out
    assert "1 stopped" in out
    Owner(here / "runs").release()  # nobody owns the sweep any more


def test_a_second_sweep_in_one_directory_is_refused(
    here: Path, tasks: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "runs").mkdir()
    owner = Owner(here / "runs")
    assert status("--env", "Pendulum-v1") == 2
    assert "runs is in use by process" in capsys.readouterr().err
    owner.release()


def test_without_ray_a_sweep_says_how_to_get_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    assert status("--env", "Pendulum-v1") == 2
    assert capsys.readouterr().err == "worldloom: Sweeps run on Ray: pip install 'worldloom-rl[ray]'.\n"
    assert not (here / "runs").exists()


def test_a_sweep_is_not_begun_inside_a_run(here: Path, tasks: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "config.json").touch()
    (here / "checkpoints").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.path", [path for path in __import__("sys").path if path])
        assert status("--env", "Pendulum-v1") == 2
    assert "start a sweep elsewhere" in capsys.readouterr().err


def test_a_run_is_named_by_what_is_learned_wherever_its_name_has_signs_that_a_path_has_not() -> None:
    told = sweep._SweptTDMPC2(tasks=("dmc:cup-catch", "dmc:finger-spin"))
    options = sweep.SweepOptions(directory=Path("d"), seeds=(4,), presets=("1m",))
    (name,) = sweep.runs_of("tdmpc2", TDMPC2RunConfig, told, options)
    assert name == "tdmpc2-cup-catch+finger-spin-1m-seed4"
    jepa = sweep._SweptJEPA(data="minari:a/b-v0", steps=7)
    (name, config), *_ = sweep.runs_of("jepa", JEPARunConfig, jepa, options).items()
    assert name == "jepa-minari-a-b-v0-1m-seed4"
    assert (config.preset, config.seed, config.steps) == ("1m", 4, 7)
    assert config.run_directory == str(Path("d").absolute() / name)


# ------------------------------------------------------------------ progress


def begun(run: Path, owner: str = "") -> None:
    """A run of 100 steps that logged at 10 and 25, and is writing more."""
    logs = run / "logs" / "csv" / "scalars"
    for name, text in (("collection/return", "10,-3.0\n"), ("collection/updates", "10,1.0\n25,16.0\n40,3")):
        (logs / name).parent.mkdir(parents=True, exist_ok=True)
        (logs / f"{name}.csv").write_text(text)
    (run / "config.json").write_text(json.dumps({"recipe": "tdmpc2", "config": {"steps": 100}}))
    if owner:
        (run / ".owner").write_text(owner)


def test_progress_is_read_from_the_files_of_a_run(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "nowhere") == RunProgress()
    begun(tmp_path, "somebody")
    assert read_progress(tmp_path) == RunProgress(25, 100, -3.0, False, "somebody")
    result = {"config": {"steps": 100}, "agent_steps": 90, "final_mean_return": 7.0}  # 90: it reached its target
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert read_progress(tmp_path) == RunProgress(90, 100, 7.0, True, "somebody")
    (tmp_path / "config.json").write_text(json.dumps({"config": {"steps": 200}}))  # being taken further
    assert not read_progress(tmp_path).finished
    (tmp_path / "config.json").write_text("{")
    assert read_progress(tmp_path) == RunProgress(owner="somebody")


def test_a_row_tells_a_process_that_is_gone_from_one_that_works_and_one_that_went_on(tmp_path: Path) -> None:
    begun(tmp_path, "killed yesterday")
    row = Row(tmp_path)
    row.look()
    assert row.state == "waiting"
    gone = json.dumps({"process": 2**22 + 1, "host": socket.gethostname()})  # a number that no process has
    again = "went on by itself after {} ended process{}"
    for owner, state, told in (
        ("first", "running", ""),
        ("second", "running", again.format(1, "")),
        (gone, "waiting", again.format(2, "es")),
        ("third", "running", again.format(3, "es")),
    ):
        begun(tmp_path, owner)
        row.look()
        assert (row.state, row.told) == (state, told)
    assert [cell.plain for cell in row.cells()[2:4]] == ["25/100", "−3.0"]
    row.outcome = Outcome("failed", "a sentence")
    assert [cell.plain for cell in row.cells()[:2]] == [f"{tmp_path.name}\na sentence", "failed"]
