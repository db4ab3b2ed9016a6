"""Environments in a process each, as TorchRL's ParallelEnv has them, that behave as if they were in this one."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from multiprocessing.connection import Connection, wait
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]  # typeshed leaves it out
from multiprocessing.process import BaseProcess
from typing import NoReturn, ParamSpec, TypeVar

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, ParallelEnv

T = TypeVar("T")
P = ParamSpec("P")
MakeEnv = Callable[..., EnvBase]
Keywords = Mapping[str, object]
_NAP = 5e-5  # seconds between two looks whether all have stepped
_LOOKS = 200  # of them, until it is looked for an error


class Workers(ParallelEnv):  # type: ignore[misc]  # torchrl is untyped
    """Environments [E] in E processes, with the values that a SerialEnv of the same seeds gives.

    What an environment raises is raised here, of its own type. The processes end with this one, however it ends, and
    leave Ctrl-C and SIGTERM to it, so that a run that is asked to stop can still be saved with its episodes.

    Args:
        num_workers: E.
        create_env_fn: makes one; also called once in this process, for its specs.
        create_env_kwargs: of each one's call.
    """

    def __init__(
        self,
        num_workers: int,
        create_env_fn: MakeEnv,
        *,
        create_env_kwargs: Sequence[Keywords] | None = None,
    ) -> None:
        pipes = [multiprocessing.Pipe(duplex=False) for _ in range(num_workers)]
        self.__dict__["_errors"] = [receiving for receiving, _ in pipes]
        each = create_env_kwargs or [{}] * num_workers
        super().__init__(
            num_workers,
            _InWorker(create_env_fn),
            create_env_kwargs=[
                {"own": own, "place": place, "errors": sending}
                for place, (own, (_, sending)) in enumerate(zip(each, pipes, strict=True))
            ],
            mp_start_method=_start_method(),
            num_threads=torch.get_num_threads(),  # TorchRL takes a thread for each process from torch
        )

    def each(self, function: Callable[..., T], *arguments: Sequence[object]) -> list[T]:
        """What the function, which can be pickled, gives of each environment in its process.

        Args:
            arguments: [E] each, of the functions' calls beside the environment.
        Raises what the first one raised.
        """
        if self.is_closed:
            self.start()
        with self._as_their_own():
            found = self.ask(function, arguments)
        for error in [error for _, error in found if error is not None]:
            raise _loaded(*error)
        return [value for value, _ in found]

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        with self._as_their_own():
            following: int | None = super().set_seed(seed, static_seed)
        return following

    def close(self, *, raise_if_closed: bool = False) -> None:
        """Ends the processes; nothing if they have ended, or never began."""
        workers = set() if self.is_closed else set(self._workers)
        super().close(raise_if_closed=False)
        _running.difference_update(workers)

    # ------------------------------------------------------------------ what TorchRL calls

    def _start_workers(self) -> None:
        with self._as_their_own():
            super()._start_workers()
        _running.update(self._workers)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        with self._as_their_own():
            return super()._step(tensordict)

    def _reset(self, tensordict: TensorDictBase | None = None, **options: object) -> TensorDictBase:
        with self._as_their_own():
            return super()._reset(tensordict, **options)

    def step_and_maybe_reset(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        with self._as_their_own():
            both: tuple[TensorDictBase, TensorDictBase] = super().step_and_maybe_reset(tensordict)
        return both

    def _wait_for_workers(self, workers_range: Sequence[int]) -> None:
        """As TorchRL's, which spins at full speed instead: a core less for the environments."""
        looks, done = 0, self.__dict__.get("_shm_done_flags") if self._use_buffers else None
        while done is not None and not all(done[place] for place in workers_range):
            looks += 1
            if looks % _LOOKS == 0 and wait([*self._errors, *(worker.sentinel for worker in self._workers)], timeout=0):
                raise EOFError
            time.sleep(_NAP)
        super()._wait_for_workers(workers_range)

    # ------------------------------------------------------------------ errors

    @contextmanager
    def _as_their_own(self) -> Iterator[None]:
        """Raises what an environment raised where its process has ended; then all have."""
        try:
            yield
        except (EOFError, ConnectionError) as error:  # of a pipe whose other end is gone
            self._raise_own(error)

    def _raise_own(self, error: Exception) -> NoReturn:
        workers: list[BaseProcess] = self._workers
        told = [pipe.recv() for pipe in wait(self._errors, timeout=1.0) if isinstance(pipe, Connection)]
        ended = [(place, worker.exitcode) for place, worker in enumerate(workers) if worker.exitcode is not None]
        _kill(workers)
        self.is_closed = True
        if told:
            raise _loaded(*told[0])
        where = f"environment {ended[0][0]} of {self.num_workers} (exit code {ended[0][1]})" if ended else "one"
        raise RuntimeError(
            f"The process of {where} ended and said nothing: it was killed, or the simulator crashed. A script that "
            'starts processes must begin under `if __name__ == "__main__":`; --parallel serial needs none.'
        ) from error


class _InWorker:
    """Makes an environment in its process, whose errors go to the parent before they end it."""

    def __init__(self, create: MakeEnv) -> None:
        self._create, self._parent = create, os.getpid()

    def __call__(self, own: Keywords, place: int, errors: Connection) -> EnvBase:
        if os.getpid() == self._parent:
            return self._create(**own)
        _live_as_long_as_the_parent()
        env = _telling(self._create, errors)(**own)
        for name in ("set_seed", "reset", "step", "step_and_maybe_reset"):
            setattr(env, name, _telling(getattr(env, name), errors))
        env.ask = partial(_ask, env, place)
        return env


def _telling(function: Callable[P, T], errors: Connection) -> Callable[P, T]:
    @wraps(function)
    def told(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return function(*arguments, **options)
        except Exception as error:
            errors.send(_saved(error))
            raise SystemExit(1) from error  # quietly: the parent raises it

    return told


def _ask(
    env: EnvBase, place: int, function: Callable[..., T], arguments: Sequence[Sequence[object]]
) -> tuple[T | None, tuple[bytes, str] | None]:
    try:
        return function(env, *(each[place] for each in arguments)), None
    except Exception as error:  # noqa: BLE001 (raised in the parent)
        return None, _saved(error)


def _saved(error: Exception) -> tuple[bytes, str]:
    """An error as bytes, empty if it cannot be, and as text."""
    text = f"{type(error).__qualname__}: {error}"
    try:
        return pickle.dumps(ExceptionWithTraceback(error, error.__traceback__)), text
    except Exception:  # noqa: BLE001 (whatever its class does)
        return b"", text


def _loaded(saved: bytes, text: str) -> Exception:
    try:
        error = pickle.loads(saved)  # of a process that this one started
    except Exception:  # noqa: BLE001 (whatever its class does, whose constructor may take other arguments)
        return RuntimeError(text)
    return error if isinstance(error, Exception) else RuntimeError(text)


def _live_as_long_as_the_parent() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


_running: set[BaseProcess] = set()


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    _running.difference_update(workers)


# After the import of multiprocessing, so that it comes before its own, which would wait for them.
atexit.register(lambda: _kill(set(_running)))


def _start_method() -> str:
    """Forks of a process that has imported what environments need, where there are such: TorchRL's way, to begin anew,
    takes the time of its import for each. A way to fork that was set counts more."""
    chosen = multiprocessing.get_start_method(allow_none=True)
    if chosen in ("fork", "forkserver") or "forkserver" not in multiprocessing.get_all_start_methods():
        return chosen or "spawn"
    multiprocessing.set_forkserver_preload(["worldloom_rl.envs"])
    return "forkserver"
