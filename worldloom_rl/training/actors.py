"""The actors of a run: processes of Ray that play side by side, get new weights, and are replaced when they die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

from tensordict import TensorDict

from worldloom_rl.training.actor import Actor, Start, Weights, Work, notes_of, transitions_of
from worldloom_rl.training.ray_tasks import ElsewhereError

_MOST_DEATHS = 3  # of an actor in a row, without a batch between
_SILENCE = 60.0  # seconds without a batch until a person is told

Reference = object  # to a result of Ray's that may not be there yet


class _Method(Protocol):
    def remote(self, *arguments: object) -> Reference: ...


class _Handle(Protocol):
    begin: _Method
    play: _Method


@dataclass
class _Place:
    """An actor of those that take turns in one place.

    Attributes:
        pending: what it was asked for last, at the time `since`.
        process: the number of its process; 0 until that is up.
        updates: that the weights had seen which it plays with; -1 if it has none yet.
        played: that those had seen of its newest batch; -1 if it gave none yet.
        deaths: how many had to be replaced in a row.
    """

    handle: _Handle
    pending: Reference
    since: float
    process: int = 0
    updates: int = -1
    played: int = -1
    deaths: int = 0


class Actors:
    """Batches of several actors in the order in which they come.

    Every actor has one batch in the making, and is asked for the next as soon as that is taken: if the learner is slow,
    actors wait, and no step is lost or played twice. One that died, or gave no batch in time, is replaced by a new one
    with the newest weights, whose streams begin new episodes.

    Args:
        ray: the library, connected.
        work: what they are told.
        start: of an actor's number and of how many began before, what a new one begins with.
        own: whether Ray runs on this machine alone, where a process can be ended that does not listen.
    """

    def __init__(self, ray: ModuleType, work: Work, start: Callable[[int, int], Start], *, own: bool = True) -> None:
        self._ray, self._start, self._own = ray, start, own
        self._notes, self._patience = work.notes, work.config.actor_patience
        self._work = ray.put(work)
        self._kind = ray.remote(num_cpus=0 if own else 1, max_restarts=0)(Actor)
        self._weights: Reference | None = None
        self._updates = self._starts = 0
        self._heard = time.monotonic()
        self.news: list[str] = []  # for a person
        Path(work.notes).mkdir(parents=True, exist_ok=True)
        self._places = [self._begun(number, 0) for number in range(work.config.actors)]

    def send(self, weights: Weights, updates: int) -> None:
        """Each actor plays its next batch with these weights, arrays by name, which have seen so many updates."""
        self._weights, self._updates = self._ray.put(weights), updates

    def next(self, seconds: float) -> TensorDict | None:
        """Transitions [E, T] that came next, within so many seconds; None if none did. `send` comes before it.

        Raises what an environment or a policy raised, as it is; ChildProcessError where an actor cannot be kept alive.
        """
        self._replace_hanging()
        # The one that was asked first comes first: of several that are there Ray takes the first of the list.
        asked = sorted(range(len(self._places)), key=lambda number: self._places[number].since)
        numbers = {self._places[number].pending: number for number in asked}
        ready, _ = self._ray.wait(list(numbers), timeout=seconds)
        if not ready:
            self._tell_silence()
            return None
        number, errors = numbers[ready[0]], self._ray.exceptions
        try:
            result = self._ray.get(ready[0])
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            raise cause from ElsewhereError(str(error))
        except errors.RayError as death:
            self._replace(number, _reason(death), str(death))
            return None
        place, begins = self._places[number], not self._places[number].process
        if begins:
            place.process = result
        else:
            place.played, place.deaths, self._heard = place.updates, 0, time.monotonic()
        self._ask(number)
        return None if begins else transitions_of(result)

    @property
    def playing(self) -> int:
        """How many are up."""
        return sum(place.process > 0 for place in self._places)

    @property
    def played(self) -> int:
        """Updates that the weights had seen with which the newest batches were played, the least of all actors."""
        return min((place.played for place in self._places if place.played >= 0), default=self._updates)

    @property
    def processes(self) -> list[int]:
        """Their numbers, 0 of one that is not up."""
        return [place.process for place in self._places]

    def close(self) -> None:
        """Ends them. Files that tell of deaths stay."""
        for number, place in enumerate(self._places):
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(place.handle)
            file = Path(notes_of(self._notes, number))
            with suppress(OSError):
                if not file.stat().st_size:
                    file.unlink()
        with suppress(OSError):
            Path(self._notes).rmdir()

    def _begun(self, number: int, deaths: int) -> _Place:
        handle: _Handle = self._kind.remote(self._work, number)
        return _Place(handle, handle.begin.remote(), time.monotonic(), deaths=deaths)

    def _ask(self, number: int) -> None:
        """Has it play the next batch, or its first."""
        place, start = self._places[number], None
        if place.updates < 0:
            start = self._start(number, self._starts)
            self._starts += 1
        weights = None if place.updates == self._updates else self._weights
        place.pending, place.since = place.handle.play.remote(weights, start), time.monotonic()
        place.updates = self._updates

    def _replace_hanging(self) -> None:
        """Replaces those whose process is up and whose batch is late; one that waits for room in a cluster may wait."""
        now = time.monotonic()
        for number, place in enumerate(self._places):
            late = place.process and now - place.since > self._patience
            if late and not self._ray.wait([place.pending], timeout=0)[0]:
                if self._own:  # a process that was stopped hears nothing of Ray's
                    with suppress(ProcessLookupError):
                        os.kill(place.process, signal.SIGKILL)
                told = f"gave no batch for {self._patience:g} s (--actor-patience)"
                self._replace(number, told, f"It {told}.")

    def _replace(self, number: int, reason: str, text: str) -> None:
        """A new actor in the place of one of which it is known why it is no good.

        Args:
            text: goes into the file that its process may have written to.
        """
        file, before = notes_of(self._notes, number), self._places[number]
        with open(file, "a", encoding="utf-8") as notes:
            notes.write(f"\n{text}\n")
        if before.deaths + 1 >= _MOST_DEATHS:
            raise ChildProcessError(
                f"Actor {number} {reason}, and so did {_MOST_DEATHS - 1} before it, one after the other. What is known "
                f"of each: {file}."
            )
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(before.handle)
        self._places[number] = self._begun(number, before.deaths + 1)
        self.news.append(f"Actor {number} {reason}: a new one takes its place and begins new episodes.")

    def _tell_silence(self) -> None:
        now = time.monotonic()
        if now - self._heard > _SILENCE:
            up = f"{self.playing} of {len(self._places)} are up"
            self.news.append(f"No actor gave a batch for {_SILENCE:g} s; {up}.")
            self._heard = now


def _reason(death: Exception) -> str:
    """In half a sentence why an actor is no more."""
    text = str(death).strip().splitlines() or [type(death).__name__]
    if "creation task" in str(death):
        return f"could not be made ({text[-1].strip()[:200]})"
    return "died, killed or out of memory" if type(death).__name__ == "ActorDiedError" else f"died ({text[0][:200]})"
