"""What the length of a run is counted in: agent steps or gradient updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol


class Counted(Protocol):
    """What has both counts: a run's state, an evaluation, a checkpoint's name."""

    @property
    def agent_steps(self) -> int: ...
    @property
    def updates(self) -> int: ...


class Counts(NamedTuple):
    """The two counts alone."""

    agent_steps: int
    updates: int


class Clock(ABC):
    """What `steps`, evaluations, checkpoints and logs of a run count.

    Attributes:
        name: in files.
        unit: for people, short.
        axis: title of a picture's axis, see `on_axis`.
        collecting: what the steps before learning are called.
    """

    name: str
    unit: str
    axis: str
    collecting: str

    @property
    def words(self) -> str:
        """The name for people."""
        return self.name.replace("_", " ")

    @abstractmethod
    def count(self, counted: Counted) -> int:
        """How far that is."""

    @abstractmethod
    def on_axis(self, count: int, action_repeat: int) -> int:
        """The count in what `axis` names."""

    @abstractmethod
    def plan(self, steps: int, action_repeat: int, learning_starts: int) -> str:
        """What lies before a run of so many steps, for its first line."""

    @abstractmethod
    def check(self, steps: int, learning_starts: int, *, collects: bool) -> None:
        """Raises ValueError if a run of so many steps would learn nothing or never end.

        Args:
            learning_starts: agent steps before the first update.
            collects: whether its source adds rows as it goes on.
        """

    @abstractmethod
    def is_whole(self, updates_due: float) -> bool:
        """Whether a checkpoint may stand where so many updates are still due."""


class _AgentSteps(Clock):
    name, unit, axis, collecting = "agent_steps", "steps", "environment steps", "seeding"

    def count(self, counted: Counted) -> int:
        return counted.agent_steps

    def on_axis(self, count: int, action_repeat: int) -> int:
        return count * action_repeat

    def plan(self, steps: int, action_repeat: int, learning_starts: int) -> str:
        each = f"each {action_repeat} environment steps"
        return f"{steps} agent steps, {each}; learning starts after {learning_starts}; "

    def check(self, steps: int, learning_starts: int, *, collects: bool) -> None:
        if not collects:
            raise ValueError("The run counts agent steps, but its rows are all there from the start: count updates.")
        if steps <= learning_starts:
            raise ValueError(
                f"steps is {steps}, but learning starts after {learning_starts} agent steps: give more steps."
            )

    def is_whole(self, updates_due: float) -> bool:
        return updates_due < 1


class _Updates(Clock):
    name, unit, axis, collecting = "updates", "updates", "gradient updates", "collecting"

    def count(self, counted: Counted) -> int:
        return counted.updates

    def on_axis(self, count: int, action_repeat: int) -> int:
        return count

    def plan(self, steps: int, action_repeat: int, learning_starts: int) -> str:
        return f"{steps} updates; "

    def check(self, steps: int, learning_starts: int, *, collects: bool) -> None:
        """Whatever is collected before is learned from."""

    def is_whole(self, updates_due: float) -> bool:
        return True  # they are all due from the start


AGENT_STEPS: Clock = _AgentSteps()
UPDATES: Clock = _Updates()
