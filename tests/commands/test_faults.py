"""Whatever goes wrong outside the program ends with one sentence; only the program's own faults show a traceback."""

from __future__ import annotations

import errno
import itertools
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from worldloom_rl import cli
from worldloom_rl.commands import faults
from worldloom_rl.commands.console import warnings_told_once
from worldloom_rl.pretrained import registry

# Each fails in its own way, where an environment is made, looked at, reset or stepped.
MODULE = """
import gymnasium, numpy as np

class Failing(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, where, render_mode=None):
        self.where = where
        self.fail("init")

    def fail(self, where):
        if where == self.where:
            raise {error}

    def reset(self, seed=None, options=None):
        self.fail("reset")
        return np.zeros(3, np.float32), {{}}

    def step(self, action):
        self.fail("step")
        return np.zeros(3, np.float32), 0.0, False, False, {{}}

for where in ("init", "reset", "step"):
    gymnasium.register(f"{name}-{{where}}-v0", Failing, max_episode_steps=10, kwargs={{"where": where}})
"""
_numbers = itertools.count()
SMALL = ("--steps", "30", "--seed-steps", "20", "--eval-episodes", "1", "--overrides", "num_samples=8", "num_elites=2",
         "num_policy_trajectories=2", "iterations=1")  # fmt: skip


def ended(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Exit status, and what was written where errors go."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    return stopped.value.code, capsys.readouterr().err


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module that a person brings; its name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        name = f"brought_{len(list(tmp_path.glob('*.py')))}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


@pytest.mark.parametrize(
    "error", ["KeyError('door')", "ValueError('too far')", "OSError(5, 'the robot is gone')", "1 / 0"]
)
@pytest.mark.parametrize("where", ["init", "reset", "step"])
def test_an_environments_own_error_stays_its_own(
    where: str, error: str, module: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    number = next(_numbers)
    raised = error if error != "1 / 0" else "ValueError(1 / 0)"
    name = module(MODULE.format(error=raised, name=f"Failing{number}"))
    status, told = ended(["train", "tdmpc2", "--env", f"{name}:Failing{number}-{where}-v0", *SMALL], capsys)
    assert status == 2
    assert "Traceback" not in told
    kind = "ZeroDivisionError" if error == "1 / 0" else error.partition("(")[0]
    assert f"the environment raised {kind}: " in told
    assert f"{name}.py, line " in told
    assert told.count("\n") == 1
    assert len(told) < 1000
    kept = Path(told.split()[-1]).read_text()
    assert kept.startswith("Traceback")
    assert f'{name}.py", line' in kept


@pytest.mark.parametrize("text", ["import no_such_thing_at_all", "1 +", "raise SystemError('[bold]no licence[/bold]')"])
def test_a_module_that_cannot_be_imported_is_told_in_a_sentence(
    text: str, module: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = ended(["train", "tdmpc2", "--env", f"{module(text)}:Any-v0"], capsys)
    assert status == 2
    assert told.startswith("worldloom: the environment raised ")
    assert "no_such_thing_at_all" in told or "SyntaxError" in told or "[bold]no licence[/bold]" in told
    assert told.count("\n") == 1


def ended_by(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    """How a command ends whose work raises the error."""

    def fail(pattern: str) -> list[str]:
        raise error

    monkeypatch.setattr(registry, "list_world_models", fail)
    return ended(["list"], capsys)


@pytest.mark.parametrize(
    "error",
    [KeyError("rows"), TypeError("'NoneType' object is not subscriptable"), RuntimeError("shapes"), AssertionError()],
)
def test_the_programs_own_fault_keeps_its_traceback_and_asks_for_a_report(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = ended_by(error, monkeypatch, capsys)
    assert status == 1
    assert told.startswith("Traceback (most recent call last):")
    assert "please report it" in told.splitlines()[-1]
    assert type(error).__name__ in told.splitlines()[-1]


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        OSError(errno.ENOSPC, "No space left on device"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ],
)
def test_what_files_memory_and_devices_refuse_is_no_fault_of_the_program(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = ended_by(error, monkeypatch, capsys)
    assert (status, told.count("\n")) == (2, 1)
    assert "Traceback" not in told
    assert ("Make room" in told) == (getattr(error, "errno", None) == errno.ENOSPC)


def test_a_long_message_is_cut_in_the_middle_and_stays_below_a_thousand_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = "/".join(["long"] * 900)
    status, told = ended(["eval", path], capsys)
    assert status == 2
    assert "File name too long: 'long/long/" in told
    assert len(told) < 1000


def test_a_path_that_is_no_text_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    status, told = ended(["eval", "caf\udce9"], capsys)
    assert status == 2
    assert "holds no config.json" in told


def test_an_error_that_was_raised_on_purpose_is_told_as_it_is() -> None:
    def of(call: Callable[[], object]) -> faults.Fault:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # of whatever kind
            call()
        return faults.fault_of(caught.value)

    from worldloom_rl.commands.recipes import find_recipe

    assert of(lambda: find_recipe("dreamer")).expected
    assert re.search("no recipe 'dreamer'", of(lambda: find_recipe("dreamer")).text)
    assert of(lambda: sys.modules["nowhere"]).ours


def test_a_warning_is_a_sentence_that_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with warnings_told_once():
            for text in ("texts are left out", "texts are left out", "weights are fresh"):
                warnings.warn(text, stacklevel=1)
    assert capsys.readouterr().err == "worldloom: texts are left out\nworldloom: weights are fresh\n"
