"""The training loop: `train` a recipe from the start, `resume` a run. Read `step` for the walk of one agent step.

What goes on around the steps, such as evaluations and checkpoints, stands in `run.py`; the subject itself, one gradient
update, in the recipe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from worldloom_rl import ranks
from worldloom_rl.config import older_values
from worldloom_rl.training import surroundings
from worldloom_rl.training.checkpoint import counts_of, load_state, own_part
from worldloom_rl.training.device import check_device
from worldloom_rl.training.evaluate import Evaluation
from worldloom_rl.training.fields import typed
from worldloom_rl.training.interruption import Interrupted
from worldloom_rl.training.manifest import DamagedCheckpoint, require_manifest
from worldloom_rl.training.meeting import joined
from worldloom_rl.training.recipe import ConfigT, ModelT, Recipe, StateT
from worldloom_rl.training.run import Run
from worldloom_rl.training.run_directory import CONFIG_FILE, RunDirectory
from worldloom_rl.training.together import check_together


def step(recipe: Recipe[ConfigT, ModelT, StateT], state: StateT) -> str:
    """One gradient update if one is due, else one agent step in every environment. Returns the phase's name.

    Of several processes each calls it, and they do the same.
    """
    learning = state.agent_steps >= state.learning_starts
    if learning and state.updates_due >= 1:
        with state.profile.timing("update"):
            state.metrics = recipe.update(state)
        state.updates += 1
        state.updates_due -= 1
        before_learning = state.learning_starts * state.updates_per_step  # updates that these steps were due
        return "pretraining" if recipe.pretrains and state.updates <= before_learning else "training"
    with state.profile.timing("environment"):
        transitions = state.source.collect()
    if transitions is None:  # all rows are there: the next step is an update
        state.updates_due += 1
        return "training"
    recipe.check(state, transitions)
    state.source.add(transitions)
    # Each process has as many environments; `numel` of a tensordict is never 0.
    steps = transitions.batch_size.numel() * ranks.count()
    state.agent_steps += steps
    if learning or recipe.pretrains:
        state.updates_due += steps * state.updates_per_step
    return "training" if learning else recipe.clock.collecting


def train(recipe: Recipe[ConfigT, ModelT, StateT], config: ConfigT) -> RunDirectory:
    """Train from the start. Returns the run directory, which holds the result.

    Raises ValueError, with no directory left behind, if the run cannot begin or would end before learning starts.
    """
    check_together(recipe, config)
    check_device(config.device)
    with joined():
        config = ranks.told(recipe.settle(config))
        directory = _create(recipe, config)
        with directory.owned():
            with directory.unless_the_start_fails():
                state = _start(recipe, dataclasses.replace(config, run_directory=str(directory.path)), directory)
            return _run(recipe, state, directory)


def _create(recipe: Recipe[ConfigT, ModelT, StateT], config: ConfigT) -> RunDirectory:
    """The new directory of a run, which the first of several processes makes."""
    if ranks.rank():
        return RunDirectory(ranks.told(""))
    name = f"{recipe.name}-{config.task.replace(':', '-').replace('/', '-').strip('-.')}-seed{config.seed}"
    directory = RunDirectory.create(config.run_directory, name, recipe.name, dataclasses.asdict(config))
    ranks.told(str(directory.path))
    return directory


def _start(recipe: Recipe[ConfigT, ModelT, StateT], config: ConfigT, directory: RunDirectory) -> StateT:
    """A fresh state, in every process or in none."""
    state = recipe.make_state(config)
    try:
        recipe.clock.check(config.steps, state.learning_starts, collects=state.source.collects)
        if ranks.rank() == 0:
            surroundings.keep(directory.path, state)
        ranks.wait()
        ranks.part_ways(state.model, config.seed)
    except BaseException:
        state.close()
        raise
    return state


def resume(
    recipe: Recipe[ConfigT, ModelT, StateT],
    directory: RunDirectory,
    *,
    steps: int | None = None,
    start: int | None = None,
) -> RunDirectory:
    """Go on from the newest checkpoint of a run.

    Args:
        steps: of the whole run, in place of what it was told; it then ends as if it had been told this at first.
        start: go back to the checkpoint of that count; what came after it is removed.
    Raises ValueError, with nothing changed, for steps that cannot be, or for an environment that is another one now;
    DamagedCheckpoint for a checkpoint that is not what was written, with the way back to one that is.
    """
    before = read_config(recipe, directory)
    check_together(recipe, before)
    config = dataclasses.replace(before, run_directory=str(directory.path), steps=steps or before.steps)
    with joined(), directory.owned():
        folder = _resumed_folder(recipe, directory, start)
        _check_length(recipe, directory, before, config, recipe.clock.count(counts_of(folder)))
        told: list[str] = []

        def check(fresh: StateT) -> None:
            recipe.clock.check(config.steps, fresh.learning_starts, collects=fresh.source.collects)
            told.append(surroundings.compare(directory.path, fresh))

        try:
            require_manifest(folder)
            state = load_state(recipe, config, folder, check)
        except DamagedCheckpoint as error:
            raise DamagedCheckpoint(f"{error} {directory.way_back(folder, recipe.clock)}") from error
        try:
            state.resumed = " ".join(filter(None, [state.resumed, *told]))
            state.source.moved(own_part(folder))
            ranks.wait()
            if ranks.rank() == 0:
                _go_back(recipe, state, directory, before, folder)
            state.evaluations = ranks.told(state.evaluations)
        except BaseException:
            state.close()
            raise
        return _run(recipe, state, directory)


def _resumed_folder(recipe: Recipe[ConfigT, ModelT, StateT], directory: RunDirectory, start: int | None) -> Path:
    """The checkpoint to go on from, which the first of several processes finds."""
    if ranks.rank():
        return Path(ranks.told(""))
    directory.checkpoints.clean()
    folder = directory.checkpoints.latest() if start is None else directory.checkpoints.at(start, recipe.clock)
    ranks.told(str(folder))
    return folder


def _check_length(
    recipe: Recipe[ConfigT, ModelT, StateT], directory: RunDirectory, before: ConfigT, config: ConfigT, count: int
) -> None:
    """Raise ValueError if the run cannot become as long as it shall now."""
    if config.steps == before.steps:
        return
    if recipe.length_counts:
        raise ValueError(
            f"{directory.path} was trained for {before.steps} {recipe.clock.unit}, and {recipe.length_counts}: more of "
            f"them would not be those of a longer run. Train a new one with --steps {config.steps}."
        )
    if config.steps <= count:
        raise ValueError(
            f"{directory.path} has gone {count} {recipe.clock.unit} already: --steps tells those of the whole run, and "
            f"{config.steps} are no more."
        )


def _go_back(
    recipe: Recipe[ConfigT, ModelT, StateT],
    state: StateT,
    directory: RunDirectory,
    before: ConfigT,
    folder: Path,
) -> None:
    """Makes the directory what it was at the checkpoint, of a run as long as this one shall be."""
    clock, config = recipe.clock, state.config
    told = directory.ended_with(counts_of(folder), before.steps)
    if told:
        state.evaluations = told  # the last one, too
    elif folder != directory.checkpoints.latest():
        directory.remove_result()
    if config.steps != before.steps:
        # A longer run would not have made its last evaluation there.
        state.evaluations = [made for made in state.evaluations if clock.count(made) < before.steps]
        directory.change_config(steps=config.steps)
    directory.checkpoints.drop_after(folder)
    surroundings.keep(directory.path, state)
    directory.logs.clock = clock.name
    count = clock.count(state)
    directory.logs.cut(count, sum(clock.count(made) == count for made in state.evaluations))


def _run(recipe: Recipe[ConfigT, ModelT, StateT], state: StateT, directory: RunDirectory) -> RunDirectory:
    with Run(recipe, state, directory) as run:
        try:
            _walk(recipe, state, run)
        except FloatingPointError as error:
            raise run.with_remedy(error) from error
        except ranks.Lost as error:
            raise run.with_way_on(error) from error
    return directory


def _walk(recipe: Recipe[ConfigT, ModelT, StateT], state: StateT, run: Run[ConfigT, ModelT, StateT]) -> None:
    try:
        while run.goes_on():
            if run.evaluation_is_due():
                run.evaluate()
            else:
                run.after_step(step(recipe, state))
        run.finish()
    except Interrupted as interrupted:
        run.save_interrupted()
        interrupted.end()


def read_config(recipe: Recipe[ConfigT, ModelT, StateT], directory: RunDirectory) -> ConfigT:
    """The configuration of a run of this recipe.

    Raises ValueError if its file holds something else, or names a device that this machine does not have.
    """
    name, values = directory.read_config()
    if name != recipe.name:
        raise ValueError(f"{directory.path} is a run of the recipe {name!r}, not of {recipe.name!r}.")
    file = directory.path / CONFIG_FILE
    known = {**older_values(recipe.config_class), **typed(recipe.config_class, values, str(file))}
    if missing := [each.name for each in dataclasses.fields(recipe.config_class) if each.name not in known]:
        raise ValueError(f"{file} lacks the fields {missing} of the run's configuration; is the file complete?")
    try:
        config = recipe.config_class(**known)
        check_device(config.device)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return config


def assess(
    recipe: Recipe[ConfigT, ModelT, StateT],
    config: ConfigT,
    model: ModelT,
    episodes: int,
    agent_steps: int,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """An evaluation as the recipe makes it, of a model that so many agent steps made; `check` may end it."""
    return dataclasses.replace(recipe.evaluate(config, model, episodes, seed, check), agent_steps=agent_steps)
