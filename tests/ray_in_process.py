"""Ray without processes: what an actor is asked for is done here when its result is looked for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    pass


class ActorDiedError(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(f"Traceback: line 7 of the robot: {cause}")
        self.cause = cause


HANGS = object()  # in place of a result


class Result:
    """What is asked of an actor, done once, when somebody looks."""

    def __init__(self, do: Callable[[], object]) -> None:
        self._do, self._done = do, False

    def ready(self) -> bool:
        if not self._done:
            self._done = True
            try:
                self.value: object = self._do()
            except RayError as error:
                self.value = error
            except Exception as error:  # noqa: BLE001  # whatever an environment raises
                self.value = RayTaskError(error)
        return self.value is not HANGS


class RayInProcess:
    """Stands for the library.

    Attributes:
        made: actors, in the order in which they were.
        ended: those that were killed.
        instead: of an actor's number among `made` and a method's name, what it comes to, raises, or None to do it.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, instead: Callable[[int, str], object] = lambda number, method: None) -> None:
        self.made: list[Any] = []
        self.ended: list[Any] = []
        self.instead = instead

    def put(self, value: object) -> object:
        return copy.deepcopy(value) if isinstance(value, dict) else value  # weights are sent as they are now

    def remote(self, **options: object) -> Callable[[type], SimpleNamespace]:
        return lambda kind: SimpleNamespace(remote=lambda *arguments: self._make(kind, arguments))

    def _make(self, kind: type, arguments: tuple[object, ...]) -> SimpleNamespace:
        number, actor = len(self.made), kind(*arguments)

        def method(name: str) -> SimpleNamespace:
            def do(*given: object) -> object:
                found = self.instead(number, name)
                if isinstance(found, Exception):
                    raise found
                return getattr(actor, name)(*given) if found is None else found

            return SimpleNamespace(remote=lambda *given: Result(lambda: do(*given)))

        self.made.append(SimpleNamespace(begin=method("begin"), play=method("play"), actor=actor))
        return self.made[-1]

    def wait(self, references: list[Result], timeout: float) -> tuple[list[Result], list[Result]]:
        first = [next((reference for reference in references if reference.ready()), None)]
        ready = [reference for reference in first if reference is not None]
        return ready, [reference for reference in references if reference not in ready]

    def get(self, reference: Result) -> object:
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value

    def kill(self, handle: object) -> None:
        self.ended.append(handle)
