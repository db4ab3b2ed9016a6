"""A run's state as a checkpoint, and back: weights, what learning goes on from, the source, and counters."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import torch

from worldloom_rl.training.checkpoint import Checkpoints
from worldloom_rl.training.evaluate import Evaluation
from worldloom_rl.training.finite import check_weights
from worldloom_rl.training.recipe import Recipe, StateT
from worldloom_rl.training.state import ConfigT, ModelT

_COUNTERS = ("agent_steps", "updates", "updates_due", "training_seconds")


def save_checkpoint(recipe: Recipe[ConfigT, ModelT, StateT], state: StateT, checkpoints: Checkpoints) -> None:
    """A new checkpoint of the state, scored by its last evaluation.

    Raises FloatingPointError, with the checkpoints as they were, if a weight is not finite.
    """
    check_weights(state.model)
    scored = [evaluation for evaluation in state.evaluations[-1:] if evaluation.returns]
    score = scored[0].mean_return if scored else None
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
            differ = {name: (theirs[name], ours[name]) for name in ours if theirs[name] != ours[name]}
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
