"""A run has one owner at a time; the lock goes with the process, however that ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from worldloom_rl.training import owner as owner_module
from worldloom_rl.training.owner import OWNER_FILE, Owner
from worldloom_rl.training.run_directory import RunDirectory


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], int]:
    """Runs a function in a fork of this process, which then waits to be killed; its number."""
    children: list[int] = []

    def start(call: Callable[[], None]) -> int:
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            call()
            os.write(told, b"x")
            time.sleep(60)
            os._exit(0)
        children.append(child)
        os.close(told)
        assert os.read(ready, 1) == b"x"
        os.close(ready)
        return child

    return start


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_second_is_refused_with_the_process_and_host_of_the_first_until_that_is_killed(
    tmp_path: Path, fork: Callable[[Callable[[], None]], int]
) -> None:
    kept: list[Owner] = []
    child = fork(lambda: kept.append(Owner(tmp_path)))
    with pytest.raises(BlockingIOError, match=rf"is in use by process {child} on {os.uname().nodename}, which trains"):
        Owner(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / OWNER_FILE).exists()
    Owner(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_of_the_owner_neither_keeps_nor_releases_the_lock(
    tmp_path: Path, fork: Callable[[Callable[[], None]], int]
) -> None:
    first = Owner(tmp_path)
    child = fork(first.release)
    with pytest.raises(BlockingIOError):
        Owner(tmp_path)
    first.release()
    Owner(tmp_path).release()  # though the fork lives
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_one_process_owns_a_run_once(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "name", "tdmpc2", {})
    with pytest.raises(BlockingIOError, match=f"process {os.getpid()} "):
        RunDirectory.create(tmp_path / "run", "name", "tdmpc2", {})
    with pytest.raises(BlockingIOError), RunDirectory(tmp_path / "run").owned():
        pass
    with run.owned():
        pass
    with pytest.raises(FileExistsError, match="ended before its first checkpoint"):
        RunDirectory.create(tmp_path / "run", "name", "tdmpc2", {})
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.json"]
    first = Owner(tmp_path)
    del first
    Owner(tmp_path).release()


def test_who_opened_the_file_just_before_it_was_let_go_locks_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, original = Owner(tmp_path), owner_module._lock

    def lock(descriptor: int) -> bool:
        first.release()  # between the opening and the locking
        return original(descriptor)

    monkeypatch.setattr(owner_module, "_lock", lock)
    second = Owner(tmp_path)
    monkeypatch.setattr(owner_module, "_lock", original)
    with pytest.raises(BlockingIOError):
        Owner(tmp_path)
    second.release()


def test_an_owner_that_says_nothing_is_called_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Owner(tmp_path)
    (tmp_path / OWNER_FILE).write_text("")
    monkeypatch.setattr(owner_module, "_PATIENCE", 0.01)
    with pytest.raises(BlockingIOError, match="in use by another process"):
        Owner(tmp_path)
    first.release()
