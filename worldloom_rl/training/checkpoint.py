"""Checkpoints of a run: what a state comes to on the disk, and back; the newest few are kept, and the best.

A checkpoint is a whole directory that appears by renaming: weights, what learning goes on from, the source, counters.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from worldloom_rl.atomic import new_directory
from worldloom_rl.training.evaluate import Evaluation
from worldloom_rl.training.finite import check_weights
from worldloom_rl.training.recipe import ConfigT, ModelT, Recipe, StateT

_PREFIX = "step_"
_SCORE_FILE = "score.json"
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
        return sorted(self.directory.glob(f"{_PREFIX}*"))

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

    def save(self, agent_steps: int, updates: int, write: Callable[[Path], None], score: float | None = None) -> Path:
        """Let `write` fill a temporary directory, then name it, then drop what is too old.

        Args:
            score: of the last evaluation before it; None if there was none.
        """
        target = self.directory / f"{_PREFIX}{agent_steps:09d}_{updates:09d}"
        if not target.exists():
            with new_directory(target) as folder:
                write(folder)
                (folder / _SCORE_FILE).write_text(json.dumps({"score": score}))
        kept = {*self.all()[-self.keep :], *self._scored()[-1:]}
        for folder in set(self.all()).difference(kept):
            dropped = folder.with_name(f".{folder.name}-dropped")  # a half-removed one must not look like a whole one
            os.replace(folder, dropped)
            shutil.rmtree(dropped)
        return target

    def _scored(self) -> list[Path]:
        """The checkpoints that have a score, the best last, of equal ones the newest."""
        scored = [(score, folder) for folder in self.all() if (score := _score(folder)) is not None]
        return [folder for _, folder in sorted(scored)]

    def clean(self) -> None:
        """Remove what a killed run left half written or half removed. Not while a run is writing here."""
        for rest in self.directory.glob(f".{_PREFIX}*"):
            shutil.rmtree(rest)


def agent_steps_of(checkpoint: Path) -> int:
    """The agent steps that a checkpoint's name tells."""
    return int(checkpoint.name.removeprefix(_PREFIX).partition("_")[0])


def updates_of(checkpoint: Path) -> int:
    """The gradient updates that a checkpoint's name tells."""
    return int(checkpoint.name.rpartition("_")[2])


def _score(checkpoint: Path) -> float | None:
    score: float | None = json.loads((checkpoint / _SCORE_FILE).read_text())["score"]
    return score


def save_checkpoint(recipe: Recipe[ConfigT, ModelT, StateT], state: StateT, checkpoints: Checkpoints) -> None:
    """A new checkpoint of the state, scored by its last evaluation.

    Raises FloatingPointError, with the checkpoints as they were, if a weight is not finite.
    """
    check_weights(state.model)
    scored = [evaluation for evaluation in state.evaluations[-1:] if evaluation.returns]
    score = scored[0].score if scored else None
    folder = checkpoints.save(state.agent_steps, state.updates, partial(save_state, recipe, state), score)
    state.source.moved(folder)


def save_state(recipe: Recipe[ConfigT, ModelT, StateT], state: StateT, directory: Path) -> None:
    """Everything that a run goes on from: weights, what the recipe learns with, its source and counters."""
    state.model.save_pretrained(directory / "model")
    learning = {
        **recipe.save(state),
        "counters": {name: getattr(state, name) for name in _COUNTERS},
        "evaluations": [dataclasses.asdict(evaluation) for evaluation in state.evaluations],
        **state.source.save(directory),
    }
    torch.save(learning, directory / "learning.pt")


def load_state(recipe: Recipe[ConfigT, ModelT, StateT], config: ConfigT, directory: Path) -> StateT:
    """The state that `save_state` wrote.

    What follows is bit for bit what would have followed there: on a CPU, with the same libraries and number of threads,
    if the environments' state could be kept (see `envs.snapshot`); else their episodes begin anew.
    """
    learning = torch.load(directory / "learning.pt", map_location="cpu", weights_only=True)
    state = recipe.make_state(config)
    try:
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
        recipe.load(state, learning)
        for name in _COUNTERS:
            setattr(state, name, learning["counters"][name])
        state.evaluations = [Evaluation(**values) for values in learning["evaluations"]]
        told = state.source.load(directory, learning, config.seed + state.agent_steps)
    except BaseException:
        state.close()
        raise
    state.resumed = f"Goes on after {state.agent_steps} steps and {state.updates} updates{told}"
    return state
