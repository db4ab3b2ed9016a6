"""A run that can be asked for again and again, as schedulers do: it begins, goes on, or was finished before."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from worldloom_rl import ranks
from worldloom_rl.config import Json, found_fields
from worldloom_rl.training import loop
from worldloom_rl.training.next_command import typed
from worldloom_rl.training.recipe import ConfigT, ModelT, Recipe, StateT
from worldloom_rl.training.run_directory import RunDirectory
from worldloom_rl.training.trust import remember_modules


def train_or_resume(recipe: Recipe[ConfigT, ModelT, StateT], config: ConfigT) -> RunDirectory:
    """The run directory that the configuration names, which holds a finished run now.

    Raises ValueError for one with a run of another configuration, BlockingIOError if another process works on it.
    """
    if ranks.told(is_finished(recipe, config)):
        return _directory(config)
    directory = _directory(config)
    if ranks.told(directory.checkpoints.all()):
        return loop.resume(recipe, directory)
    directory.start_over()
    return loop.train(recipe, config)


def is_finished(recipe: Recipe[ConfigT, ModelT, StateT], config: ConfigT) -> bool:
    """Whether the run directory holds this very run, and its result. Raises ValueError if it holds another run."""
    directory = _directory(config)
    if not directory.holds_a_run():
        return False
    remember_modules(dataclasses.asdict(config))  # as `train` does: this user named them just now
    there = loop.read_config(recipe, directory)
    if different := list(_differences(config, there)):
        further = len(different) == 1 and config.steps > there.steps and not recipe.length_counts
        remedy = (
            f"A run is taken further by {typed('resume', directory.path, '--steps', config.steps)}."
            if further
            else "Give the options of that run, or another --run-directory."
        )
        raise ValueError(f"{directory.path} holds another run: {'; '.join(different)}. {remedy}")
    return directory.is_finished(config.steps)


def _directory(config: ConfigT) -> RunDirectory:
    if not config.run_directory:
        raise ValueError(
            "A run that is to go on must be found again: name its directory, --run-directory, the same at each call."
        )
    return RunDirectory(config.run_directory)


def _differences(given: ConfigT, there: ConfigT) -> Iterator[str]:
    """Each option in which they differ, with what was given and what is expected; what that run found out is none."""
    found = found_fields(type(given)) | {"compile"}
    for field in dataclasses.fields(given):
        ours, theirs = getattr(given, field.name), getattr(there, field.name)
        if ours is None and field.name in found:
            continue
        if field.name != "run_directory" and ours != theirs:
            option = field.name.replace("_", "-")
            yield f"--{option} {_shown(ours)} was given, {_shown(theirs)} expected"


def _shown(value: Json) -> str:
    """As it is typed."""
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{text:.100}" or "nothing"
