"""A run that a command works on: its recipe, its directory and the model of its newest checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from worldloom_rl.auto import AutoWorldModel
from worldloom_rl.commands.recipes import RECIPES, find_recipe
from worldloom_rl.recipes.options import TDMPC2RunConfig
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import agent_steps_of, counts_of
from worldloom_rl.training.evaluate import worst_task
from worldloom_rl.training.manifest import DamagedCheckpoint, check_files, require_manifest
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.recipe import AnyRecipe
from worldloom_rl.training.run_directory import CONFIG_FILE, RunDirectory
from worldloom_rl.world_model import WorldModel


@dataclass(frozen=True)
class TrainedRun:
    """A run with the model of its newest checkpoint.

    Attributes:
        agent_steps: that made the model.
        experience: what it learned from, counted as the recipe does, for people.
    """

    recipe: AnyRecipe
    directory: RunDirectory
    config: RunConfig
    model: WorldModel
    agent_steps: int
    experience: str

    @property
    def played(self) -> str:
        """The environment, or the one task that is played of several."""
        config = self.config
        chosen = config.eval_tasks if isinstance(config, TDMPC2RunConfig) else ()
        return chosen[0] if len(chosen) == 1 else config.task

    @property
    def task_number(self) -> int:
        """Of the task that is played, 0 where there is one."""
        config = self.config
        if not isinstance(config, TDMPC2RunConfig) or not config.tasks or not config.eval_tasks:
            return 0
        return config.task_set().number(self.played)


def open_run(path: Path, *, trust: bool = False) -> tuple[AnyRecipe, RunDirectory]:
    """The recipe of a run directory, and the directory. Raises FileNotFoundError or ValueError if it holds no run.

    Args:
        trust: whether the run may import what it names, now and later.
    """
    run = RunDirectory(path)
    if trust and (path / CONFIG_FILE).is_file():
        run.trust()
    name, _ = run.read_config()
    if name not in RECIPES:
        raise ValueError(f"{path} is a run of the recipe {name!r}; known are {sorted(RECIPES)}.")
    return find_recipe(name), run


def newest(path: Path, *, best: bool = False, trust: bool = False) -> TrainedRun:
    """The run at a path with the model of its newest checkpoint, ready to act on the run's device.

    Args:
        best: take the one whose evaluation had the highest mean return instead.
        trust: see `open_run`.
    Raises DamagedCheckpoint, with the way back to one that is whole, if its files are not what was written.
    """
    recipe, run = open_run(path, trust=trust)
    config = loop.read_config(recipe, run)
    folder = run.checkpoints.best() if best else run.checkpoints.latest()
    try:
        require_manifest(folder)
        check_files(folder, "model/")
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(f"{error} {run.way_back(folder, recipe.clock)}") from error
    torch.set_num_threads(config.threads)
    model = AutoWorldModel.from_pretrained(folder / "model")
    model.to(config.device).eval()
    agent_steps = agent_steps_of(folder)
    experience = f"{recipe.clock.count(counts_of(folder))} {recipe.clock.words}"
    return TrainedRun(recipe, run, config, model, agent_steps, experience)


def of_tasks(config: RunConfig, tasks: Sequence[str], option: str = "--tasks") -> RunConfig:
    """The configuration of a run whose evaluations play these tasks, all if none is named.

    Raises ValueError, naming the option, for a run of one task.
    """
    if not tasks:
        return config
    if not isinstance(config, TDMPC2RunConfig) or not config.tasks:
        raise ValueError(f"{option} {' '.join(tasks)}: some of several tasks, but the run knows one: {config.task}.")
    return dataclasses.replace(config, eval_tasks=tuple(tasks))


def of_one_task(trained: TrainedRun, task: str | None) -> TrainedRun:
    """The run that plays one of its tasks, by default the one in which its last evaluation was worst.

    A run of one task is as it was. Raises ValueError for a task that it does not know or cannot play.
    """
    config = trained.config
    if task is None:
        if not isinstance(config, TDMPC2RunConfig) or not config.tasks or not config.played_tasks:
            return trained
        task = worst_task(trained.directory.logs.last_evaluation(), config.played_tasks)
    played = of_tasks(config, [task], "--task")
    assert isinstance(played, TDMPC2RunConfig)
    return dataclasses.replace(trained, config=dataclasses.replace(played, eval_tasks=played.played_tasks))
