"""When the model of a run is compiled: at once, never, or when its first steps have told that it wins time back.

Compiled steps round otherwise than eager ones, so numbers depend on when the one took the place of the other. A run
that decides by itself does so once, and writes the choice and the count down; whoever goes on with it, also from a
checkpoint before that count, compiles there, or from the start if it has passed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Generic

from worldloom_rl import ranks
from worldloom_rl.atomic import write_json
from worldloom_rl.config import Json
from worldloom_rl.training.clock import Counts
from worldloom_rl.training.compilation import Built, Gains, built, compile_model, missing_compiler
from worldloom_rl.training.manifest import DamagedCheckpoint, read_json
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.profile import OTHER, Profile
from worldloom_rl.training.recipe import ConfigT, ModelT, Recipe, RunState, StateT
from worldloom_rl.training.run_directory import COMPILATION_FILE, RunDirectory

MEASURED_STEPS = 20  # as the run counts them, after the first that plans or acts and learns
MEASURED_UPDATES = 3  # at least among these
LEAST_GAIN = 0.05  # of the time that is left; less is not worth numbers that are rounded otherwise
LEAST_RETURN = 2.0  # seconds that are won for one that the build takes, as neither is known well


class Compiling:
    """A model that stays as it is."""

    def after(self, phase: str) -> str:
        """Compiles the model if it is time to. What a person is told of that, or "".

        Args:
            phase: of the step that was made; "" before the first.
        """
        return ""

    def cost(self) -> str:
        """What compiling has taken, for a person, or ""."""
        return ""


class CompilingAt(Compiling, Generic[ConfigT, ModelT]):
    """A model that is compiled when its run has come to these counts."""

    def __init__(self, state: RunState[ConfigT, ModelT], counts: Counts) -> None:
        self._state, self._counts = state, counts
        self._before: Built | None = None  # it was compiled

    def after(self, phase: str) -> str:
        state, (agent_steps, updates) = self._state, self._counts
        if self._before is not None or state.agent_steps < agent_steps or state.updates < updates:
            return ""
        self._before = built()
        return compile_model(state.model, state.config.device)

    def cost(self) -> str:
        now = built() if self._before is not None else None
        if self._before is None or now is None or now.graphs == self._before.graphs:
            return ""
        return (
            f"Compiling took {now.seconds - self._before.seconds:.0f} s for {now.graphs - self._before.graphs} graphs; "
            "torch keeps what it built, so the next run on this machine spends less."
        )


class CompilingIfItPays(Compiling, Generic[ConfigT, ModelT, StateT]):
    """A model that is compiled when the first steps that act and learn have told that the run is long enough."""

    def __init__(self, recipe: Recipe[ConfigT, ModelT, StateT], state: StateT, directory: RunDirectory) -> None:
        self._recipe, self._state, self._file = recipe, state, directory.path / COMPILATION_FILE
        self._decided: Compiling | None = None
        self._measured: _Measured | None = None

    def after(self, phase: str) -> str:
        if self._decided is not None:
            return self._decided.after(phase)
        if phase != "training":
            return ""
        state, clock = self._state, self._recipe.clock
        if self._measured is None:  # the first such step takes longer: it is not counted
            self._measured = _Measured(state)
            return ""
        steps = clock.count(state) - clock.count(self._measured.since)
        updates = state.updates - self._measured.since.updates
        if steps < MEASURED_STEPS or updates < MEASURED_UPDATES or not clock.is_whole(state.updates_due):
            return ""
        left = state.config.steps - clock.count(state)
        return self._decide({part: value * left / steps for part, value in self._measured.end().items()})

    def cost(self) -> str:
        return "" if self._decided is None else self._decided.cost()

    def _decide(self, left: dict[str, float]) -> str:
        """Writes the choice down.

        Args:
            left: seconds of each part that the rest of the run takes.
        """
        gains, state, total = self._recipe.gains, self._state, sum(left.values())
        won = gains.acting * left["acting"] + gains.update * left["update"]
        expected = f"save about {_time(won)} of the {_time(total)} left"
        pays = won >= max(LEAST_RETURN * gains.build, LEAST_GAIN * total)
        missing = missing_compiler(state.config.device) if pays else None
        counts, compiled = Counts(state.agent_steps, state.updates), pays and missing is None
        write_json(self._file, {"compiled": compiled, **counts._asdict(), "steps": state.config.steps})
        self._decided = CompilingAt(state, counts) if compiled else Compiling()
        if missing is not None:
            return f"Compiled, the model would {expected}, but {missing}."
        if not compiled:
            return ""
        return (
            f"The run is long enough to be compiled, which takes about {_time(gains.build)} and should {expected}; "
            f"--no-compile leaves that out. {self._decided.after('')}"
        )


class _Measured(Generic[ConfigT, ModelT]):
    """Where the time of a run goes from now on."""

    def __init__(self, state: RunState[ConfigT, ModelT]) -> None:
        self.since, self._state = Counts(state.agent_steps, state.updates), state
        self._own: Profile | None = None
        if not state.config.profile:
            self._own = Profile(state.config.device)
            state.source.time_acting(self._own)
            self._before, state.profile = state.profile, self._own
        self._begin = state.profile.seconds()

    def end(self) -> dict[str, float]:
        """Seconds of each part, but of what is no step, such as checkpoints; the run is as it was before."""
        seconds = self._state.profile.seconds()
        if self._own is not None:
            self._own.stop()
            self._state.profile = self._before
        return {part: value - self._begin[part] for part, value in seconds.items() if part != OTHER}


def compiling(recipe: Recipe[ConfigT, ModelT, StateT], state: StateT, directory: RunDirectory) -> Compiling:
    """When the model of a run is compiled: as it was told, as it chose before, or as it will choose."""
    config = state.config
    if config.compile is not None:
        return CompilingAt(state, Counts(0, 0)) if config.compile else Compiling()
    if not _may_pay(recipe.gains, state.model.num_parameters()) or not _is_known(config):
        return Compiling()
    chosen = _chosen(directory.path, config) if state.resumed else None
    if chosen is None:
        return CompilingIfItPays(recipe, state, directory)
    return CompilingAt(state, chosen[1]) if chosen[0] else Compiling()


def _may_pay(gains: Gains, parameters: int) -> bool:
    """Whether compiling wins enough of a part of a step, for a model of that size, to be worth a look at the run."""
    return max(gains.acting, gains.update) >= LEAST_GAIN and parameters <= gains.largest


def _is_known(config: RunConfig) -> bool:
    """Whether gains were measured on runs of this kind: one process that acts and learns from vectors on a CPU."""
    alone = ranks.count() == 1 and not config.in_processes and not config.actors
    return alone and config.device == "cpu" and not config.pixels


def _chosen(directory: Path, config: RunConfig) -> tuple[bool, Counts] | None:
    """Whether the run chose to compile, and where; None if it has not chosen yet, or is longer now than it was then."""
    file = directory / COMPILATION_FILE
    if not file.exists():
        return None
    try:
        kept: Json = read_json(file)
        compiled, counts = bool(kept["compiled"]), Counts(int(kept["agent_steps"]), int(kept["updates"]))
        longer = config.steps > int(kept["steps"])
    except (DamagedCheckpoint, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} does not say whether the model is compiled; remove it, and the run chooses anew."
        ) from error
    return None if longer and not compiled else (compiled, counts)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
