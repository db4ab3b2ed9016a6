"""Calls as tasks of Ray, each in a process of its own: on this machine alone, or on a cluster that runs already."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Generic, ParamSpec, TypeVar

from worldloom_rl.extras import require
from worldloom_rl.training.trust import in_a_run

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")

_RETRIES = 5  # of a call whose process died
_PATIENCE = 10.0  # seconds for processes to end that were told to
_STORE = 80 * 2**20  # bytes of shared memory, nearly Ray's least: results are a few texts
_ANYWHERE = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0"}
# Without it, Ray looks for an address by which other machines reach this one, and listens there.
_HERE = {**_ANYWHERE, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


class Lost(Exception):
    """A call has no result: its process died too often, or the machine that it was on."""


class ElsewhereError(Exception):
    """The traceback, as text, of an error in another process: the cause of that error where it is raised here."""

    def __str__(self) -> str:
        return f"in another process:\n{self.args[0]}"


class Tasks(Generic[Result]):
    """Calls that are waiting or running, by name."""

    def __init__(self, ray: ModuleType, waiting: Mapping[object, str]) -> None:
        self._ray, self._waiting = ray, dict(waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def ended(self, seconds: float) -> Iterator[tuple[str, Result | Lost | None]]:
        """Names and results of calls that came to an end, after waiting so long for one at most; None if cancelled."""
        errors = self._ray.exceptions
        for reference in self._ray.wait(list(self._waiting), timeout=seconds)[0]:
            name = self._waiting.pop(reference)
            try:
                yield name, self._ray.get(reference)
            except errors.TaskCancelledError:
                yield name, None
            except errors.RayError as error:
                yield name, Lost(_lost(error))

    def cancel(self) -> None:
        """Calls that wait are given up; those that run get a KeyboardInterrupt, as by Ctrl-C, and end in their time."""
        for reference in self._waiting:
            self._ray.cancel(reference)


class Cluster:
    """Where tasks run. Made by `cluster`.

    Attributes:
        ray: the library, connected.
    """

    def __init__(self, ray: ModuleType, address: str | None) -> None:
        self.ray, self._address = ray, address

    def start(
        self, call: Callable[Parameters, Result], arguments: Mapping[str, tuple[object, ...]], cpus: float, gpus: float
    ) -> Tasks[Result]:
        """A task for each tuple of arguments, by its name.

        Args:
            cpus, gpus: that a task takes of its machine; shares of a GPU let several have one.
        Raises ValueError where this machine has fewer; a cluster may grow.
        """
        resources = self.ray.cluster_resources()
        for option, given, there in (("cpus", cpus, "CPU"), ("gpus", gpus, "GPU")):
            if self._address is None and given > resources.get(there, 0):
                raise ValueError(
                    f"--{option} {given:g} for each run is more than this machine has: {resources.get(there, 0):g}."
                )
        # A fresh process for each: what one leaves in memory is no other's.
        remote = self.ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES, max_calls=1)(call)
        return Tasks(self.ray, {remote.remote(*given): name for name, given in arguments.items()})


def prepare(address: str | None) -> None:
    """Sets what Ray reads when it is imported, which TorchRL does; call it before anything heavy is imported."""
    for name, value in (_HERE if address is None else _ANYWHERE).items():
        os.environ.setdefault(name, value)


@contextmanager
def cluster(
    address: str | None, *, who: str = "Sweeps", option: str = "--address", store: int | None = _STORE
) -> Iterator[Cluster]:
    """Ray while the block runs: its own on this machine's loopback, or one that runs already.

    Signal handlers are to be set inside the block, since Ray sets its own when it starts.

    Args:
        address: of a running Ray, "auto" to find it.
        who: runs on it, in messages; they call the address by its option.
        store: bytes of shared memory of a Ray of its own; None leaves that to Ray.
    Raises ImportError without the extra, OSError if no Ray can be started or reached, ValueError in a directory from
    which nothing may be imported.
    """
    if in_a_run():
        raise ValueError(
            "This directory belongs to a run, which may be somebody else's, and Ray would import from it: start "
            f"{who.lower()} elsewhere."
        )
    prepare(address)
    ray = require("ray", extra="ray", why=f"{who} run on Ray")
    if address is None:
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # where it was imported before it was prepared for
    before = _descendants(os.getpid())
    started: set[int] = set()
    try:
        _init(ray, address, option, store)
        started = _descendants(os.getpid()) - before if address is None else set()
        yield Cluster(ray, address)
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # Ray's own handler took it
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        started = started.union(*map(_descendants, started))
        with suppress(RuntimeError):
            ray.shutdown()
        _end(started)


def _init(ray: ModuleType, address: str | None, option: str, store: int | None) -> None:
    own = {"include_dashboard": False, "object_store_memory": store} if address is None else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
    except (OSError, RuntimeError, ValueError, TimeoutError) as error:
        told = " ".join(str(error).split())[:300]
        remedy = (
            "Free memory and room in /tmp, then try again."
            if address is None
            else f"Start one (ray start --head), or leave {option} out."
        )
        raise OSError(f"Ray could not be {'reached' if address else 'started'}: {told}. {remedy}") from error
    at = str(ray.util.get_node_ip_address())
    if address is None and not at.startswith("127."):
        raise OSError(
            f"Ray would listen on {at}, where other machines reach it; start one yourself where that is safe (ray "
            f"start --head), and give {option} auto."
        )


def _descendants(process: int) -> set[int]:
    """Processes that a process started, and those that they did; empty where the system does not tell."""
    found: set[int] = set()
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, file.read_text().split()):
                found |= {child} | _descendants(child)
    return found


def _end(processes: set[int]) -> None:
    """Waits for processes that were told to end, and kills those that do not."""
    until = time.monotonic() + _PATIENCE
    while (left := {process for process in processes if _runs(process)}) and time.monotonic() < until:
        time.sleep(0.05)
    for process in left:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def _runs(process: int) -> bool:
    """Whether it is there, and no zombie."""
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def _lost(error: Exception) -> str:
    """In one sentence why a call has no result."""
    kind = type(error).__name__
    if kind in ("WorkerCrashedError", "LocalRayletDiedError", "NodeDiedError", "ActorDiedError"):
        return f"its process died {_RETRIES + 1} times, killed or out of memory; the next call goes on"
    cause = getattr(error, "cause", None) or error  # of what the call itself raised, without the traceback in Ray's
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
