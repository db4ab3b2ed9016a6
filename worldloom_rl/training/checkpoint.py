"""Checkpoints of a run: what a state comes to on the disk, and back; the newest few are kept, and the best.

A checkpoint is a whole directory that appears by renaming: weights, what learning goes on from, the source, counters,
and a manifest with the checksum of each file. Of several processes the first writes what they have in common, beside
its own source as if it were alone; rank1/, rank2/, … hold the sources of the others.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from worldloom_rl import ranks
from worldloom_rl.atomic import new_directory, remove_directory
from worldloom_rl.data.journal import DamagedFile
from worldloom_rl.envs.snapshot import CannotKeep
from worldloom_rl.training.clock import Clock, Counts
from worldloom_rl.training.evaluate import Evaluation
from worldloom_rl.training.finite import check_weights
from worldloom_rl.training.manifest import (
    DamagedCheckpoint,
    check_files,
    read_score,
    read_tensors,
    require_manifest,
    set_score,
    write_manifest,
    writer_of,
)
from worldloom_rl.training.recipe import ConfigT, ModelT, Recipe, RunState, StateT

_PREFIX = "step_"
_LEARNING = "learning.pt"
_RANK = "rank"  # before a process' number
_COUNTERS = ("agent_steps", "updates", "updates_due", "training_seconds")


class Checkpoints:
    """The checkpoints under a directory, each named by its agent steps and its updates, never written twice.

    Args:
        directory: made when the first checkpoint is written.
        keep: how many of the newest stay, beside the one with the highest score.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory = directory
        self.keep = keep

    def all(self) -> list[Path]:
        """Finished checkpoints, the oldest first."""
        named = self.directory.glob(f"{_PREFIX}*")
        return sorted(folder for folder in named if re.fullmatch(rf"{_PREFIX}\d+_\d+", folder.name))

    def latest(self) -> Path:
        """The newest checkpoint. Raises FileNotFoundError if there is none."""
        found = self.all()
        if not found:
            raise FileNotFoundError(f"{self.directory} holds no checkpoint; the run was stopped before its first one.")
        return found[-1]

    def best(self) -> Path:
        """The checkpoint with the highest score, of equal ones the newest. Raises FileNotFoundError if none has one."""
        scored = self._scored()
        if not scored:
            raise FileNotFoundError(f"{self.directory} holds no checkpoint that was evaluated.")
        return scored[-1]

    def at(self, count: int, clock: Clock) -> Path:
        """The newest checkpoint of that count. Raises ValueError, with the counts that there are, if there is none."""
        counts = {folder: clock.count(counts_of(folder)) for folder in self.all()}
        found = [folder for folder, its in counts.items() if its == count]
        if not found:
            raise ValueError(
                f"{self.directory} holds no checkpoint of {count} {clock.words}; there are those of "
                f"{sorted(set(counts.values()))}."
            )
        return found[-1]

    def whole_before(self, checkpoint: Path) -> Path | None:
        """The newest one before that whose files are what was written."""
        for folder in reversed([folder for folder in self.all() if folder.name < checkpoint.name]):
            try:
                require_manifest(folder)
                check_files(folder)
            except DamagedCheckpoint:
                continue
            return folder
        return None

    def drop_after(self, checkpoint: Path) -> None:
        """Removes those that were written after it."""
        for folder in self.all():
            if folder.name > checkpoint.name:
                remove_directory(folder)

    def save(self, agent_steps: int, updates: int, write: Callable[[Path], None], score: float | None = None) -> Path:
        """Let `write` fill a temporary directory, then name it, then drop what is too old; all processes call it.

        Args:
            score: of the last evaluation, if it was one of this state; a checkpoint that is there already gets it, too.
        """
        target = self._named(agent_steps, updates)
        if not ranks.told(target.exists()):
            _fill(target, write, score)
        elif ranks.rank() == 0:
            self.score(agent_steps, updates, score)
        if ranks.rank() == 0:
            self._drop()
        return target

    def _drop(self) -> None:
        """Removes what is too old."""
        kept = {*self.all()[-self.keep :], *self._scored()[-1:]}
        for folder in set(self.all()).difference(kept):
            remove_directory(folder)

    def score(self, agent_steps: int, updates: int, score: float | None) -> None:
        """The score of a checkpoint that was written before its evaluation, if there are both."""
        target = self._named(agent_steps, updates)
        if score is not None and target.exists():
            set_score(target, score)

    def _named(self, agent_steps: int, updates: int) -> Path:
        return self.directory / f"{_PREFIX}{agent_steps:09d}_{updates:09d}"

    def _scored(self) -> list[Path]:
        """The checkpoints that have a score, the best last, of equal ones the newest."""
        scored = [(score, folder) for folder in self.all() if (score := read_score(folder)) is not None]
        return [folder for _, folder in sorted(scored)]

    def clean(self) -> None:
        """Remove what a killed run left half written or half removed. Not while a run is writing here."""
        for rest in self.directory.glob(f".{_PREFIX}*"):
            shutil.rmtree(rest)


def _fill(target: Path, write: Callable[[Path], None], score: float | None) -> None:
    """A new directory that all processes write to, named when all have done so."""
    if ranks.rank():
        write(Path(ranks.told("")))
        ranks.wait()
    else:
        with new_directory(target) as folder:
            write(Path(ranks.told(str(folder))))
            ranks.wait()
            write_manifest(folder, score)
    ranks.wait()  # before the next one, which builds on it


def agent_steps_of(checkpoint: Path) -> int:
    """The agent steps that a checkpoint's name tells."""
    return int(checkpoint.name.removeprefix(_PREFIX).partition("_")[0])


def updates_of(checkpoint: Path) -> int:
    """The gradient updates that a checkpoint's name tells."""
    return int(checkpoint.name.rpartition("_")[2])


def counts_of(checkpoint: Path) -> Counts:
    """Both."""
    return Counts(agent_steps_of(checkpoint), updates_of(checkpoint))


def save_checkpoint(recipe: Recipe[ConfigT, ModelT, StateT], state: StateT, checkpoints: Checkpoints) -> None:
    """A new checkpoint of the state, scored by its evaluation, if it was evaluated.

    Raises FloatingPointError, with the checkpoints as they were, if a weight is not finite.
    """
    check_weights(state.model)
    folder = checkpoints.save(state.agent_steps, state.updates, partial(save_state, recipe, state), score_of(state))
    state.source.moved(own_part(folder))


def own_part(folder: Path) -> Path:
    """Where a process keeps its source in a checkpoint."""
    return folder / f"{_RANK}{ranks.rank()}" if ranks.rank() else folder


def score_of(state: RunState[ConfigT, ModelT]) -> float | None:
    """What the last evaluation came to, if it was one of these very weights."""
    made = state.evaluations[-1:]
    counts = (state.agent_steps, state.updates)
    own = [each for each in made if each.returns and (each.agent_steps, each.updates) == counts]
    return own[0].score if own else None


def save_state(recipe: Recipe[ConfigT, ModelT, StateT], state: StateT, directory: Path) -> None:
    """Everything that a run goes on from: weights, what the recipe learns with, its source and counters."""
    if ranks.rank():
        own = own_part(directory)
        own.mkdir()
        torch.save(state.source.save(own), own / _LEARNING)
        return
    state.model.save_pretrained(directory / "model")
    learning = {
        **recipe.save(state),
        "counters": {name: getattr(state, name) for name in _COUNTERS},
        "evaluations": [dataclasses.asdict(evaluation) for evaluation in state.evaluations],
        **state.source.save(directory),
    }
    torch.save(learning, directory / _LEARNING)


def load_state(
    recipe: Recipe[ConfigT, ModelT, StateT],
    config: ConfigT,
    directory: Path,
    check: Callable[[StateT], object] = lambda state: None,
) -> StateT:
    """The state that `save_state` wrote.

    What follows is bit for bit what would have followed there: on a CPU, with the same libraries and number of threads,
    if the environments' state could be kept (see `envs.snapshot`); else their episodes begin anew.

    Args:
        check: is given the fresh state, before anything is put into it; what it raises ends the loading.
    Raises DamagedCheckpoint, naming the file, if a file is not what was written; ValueError if as many processes as
    wrote it are not here.
    """
    _check_processes(directory)
    check_files(directory)
    own = own_part(directory)
    learning = read_tensors(directory / _LEARNING)
    mine = read_tensors(own / _LEARNING) if ranks.rank() else learning
    state = recipe.make_state(config)
    try:
        check(state)
        with _reading(directory):
            _load_weights(state, directory)
            recipe.load(state, learning)
            for name in _COUNTERS:
                setattr(state, name, learning["counters"][name])
            state.evaluations = [Evaluation(**values) for values in learning["evaluations"]]
            told = state.source.load(own, mine, ranks.process_seed(config.seed + state.agent_steps))
    except BaseException:
        state.close()
        raise
    state.resumed = f"Goes on after {state.agent_steps} steps and {state.updates} updates{told}"
    return state


def _check_processes(folder: Path) -> None:
    wrote = 1 + len(list(folder.glob(f"{_RANK}*")))
    if wrote != ranks.count():
        once = "one process" if wrote == 1 else f"{wrote} processes"
        how = "worldloom resume, without torchrun" if wrote == 1 else f"torchrun --nproc-per-node {wrote} --no-python …"
        raise ValueError(
            f"{folder} was written by {once}, each with a replay and environments of its own, and {ranks.count()} "
            f"would go on: start as many ({how})."
        )


def _load_weights(state: RunState[ConfigT, ModelT], directory: Path) -> None:
    saved = type(state.model).from_pretrained(directory / "model")
    if saved.config != state.model.config:
        ours, theirs = state.model.config.to_json(), saved.config.to_json()
        names = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
        differ = {name: (theirs.get(name), ours.get(name)) for name in names}
        raise ValueError(
            f"{directory} holds a model of other numbers than the run's configuration ({differ}, the model's "
            "first); restore config.json."
        )
    state.model.load_state_dict(saved.state_dict())


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    """Turns what its contents make fail into DamagedCheckpoint, and what the environment does into ValueError."""
    try:
        yield
    except (FileNotFoundError, DamagedFile) as error:
        raise DamagedCheckpoint(str(error)) from error
    except CannotKeep as error:
        raise ValueError(
            f"The environment is built otherwise than when {directory} was written: {error} Put it back as it was, or "
            "train a new run."
        ) from error
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        told = f"{type(error).__name__}: {str(error)[:300]}"
        raise DamagedCheckpoint(
            f"{directory} does not hold what this run goes on from ({told}){writer_of(directory)}."
        ) from error
