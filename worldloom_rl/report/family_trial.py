"""How a family of world models takes to an environment: its presets, and a few steps and updates, measured."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.utils.benchmark import Timer
from torchrl.envs import EnvBase

from worldloom_rl.keys import DONE, TERMINATED, TRUNCATED
from worldloom_rl.pretrained.registry import find_family
from worldloom_rl.report.environment_report import FamilyReport, Trial
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training.evaluate import with_primers
from worldloom_rl.training.options import RunConfig

_UPDATES, _UPDATE_SECONDS = 3, 2.0  # timed at most, after one that is not
_SIDE, _PRODUCTS = 512, 5  # of the square matrices whose product tells of precisions, and how often it is timed
_FEWEST_STEPS = 12  # of acting that are timed


class Recipe(Protocol):
    """What the check uses of a `training.recipe.Recipe`, which stands behind this module in the order of imports."""

    @property
    def name(self) -> str: ...
    @property
    def config_class(self) -> type[RunConfig]: ...
    @property
    def settle(self) -> Callable[[Any], Any]: ...
    @property
    def make_state(self) -> Callable[[Any], Any]: ...
    @property
    def make_policy(self) -> Callable[[Any], TensorDictModuleBase]: ...
    @property
    def update(self) -> Callable[[Any], dict[str, Tensor]]: ...
    @property
    def pretrains(self) -> bool: ...


def family_report(recipe: Recipe, config: RunConfig) -> FamilyReport:
    """Which presets of a recipe's family read the environment, and what training the smallest of them would take.

    Args:
        config: of the recipe, whose `make_env` makes the environment; what a run finds out itself is found out here.
    """
    family = find_family(recipe.name)
    with suppress(ValueError):  # it stops the trial below, too, which says so
        config = recipe.settle(config)
    env = config.make_env(1, config.seed)
    specs = specs_of(env)
    env.close()
    parameters, unreadable = {}, {}
    for preset, numbers in family.presets.items():
        try:
            with torch.device("meta"):
                parameters[preset] = family.model_class(numbers, *specs).num_parameters()
        except (ValueError, ImportError) as error:  # what it cannot read, or an extra that is missing
            unreadable[preset] = str(error)
    report = FamilyReport(
        recipe.name,
        parameters,
        unreadable,
        capacity=config.capacity,
        run_rows=config.replay_rows(),
        found=config.found,
    )
    if not parameters:
        return dataclasses.replace(report, obstacle=next(iter(unreadable.values())))
    # A run of few steps, so that the replay tried with is small.
    preset = next(iter(parameters))
    report = dataclasses.replace(report, measured=preset)
    if preset != config.preset:
        report = dataclasses.replace(report, options=(*report.options, "--preset", preset))
    config = dataclasses.replace(config, preset=preset, steps=1)
    try:
        return dataclasses.replace(report, trial=_try(recipe, config))
    except (ValueError, RuntimeError, FloatingPointError) as error:  # training would stop with it too
        return dataclasses.replace(report, obstacle=f"The first steps and updates stopped: {error}")


@torch.no_grad()
def _act(policy: TensorDictModuleBase, env: EnvBase, steps: int) -> tuple[TensorDictBase, float]:
    """[T] transitions of a policy, the last one cut as by a time limit, and the seconds an agent step took."""
    env = with_primers(env, policy)
    env.rollout(2, policy)  # first calls are slower
    begin = time.perf_counter()
    transitions = env.rollout(steps, policy, break_when_any_done=False)
    seconds = (time.perf_counter() - begin) / steps
    env.close()
    transitions["next", TRUNCATED][-1] = ~transitions["next", TERMINATED][-1]
    transitions["next", DONE][-1] = True
    return transitions, seconds


def _try(recipe: Recipe, config: RunConfig) -> Trial:
    """A window of steps and a few updates of a fresh model. Raises ValueError if its numbers go wrong."""
    state = recipe.make_state(config)
    try:
        leaves = (state.model.observation_spec, state.model.action_spec, state.model.latent_spec)
        row_bytes = state.source.replay.bytes_per_row + state.source.arrivals.row_bytes(*leaves)
        env = config.make_env(1, config.seed)
        steps = max(_FEWEST_STEPS, state.source.replay.window + 2)
        transitions, acting_seconds = _act(recipe.make_policy(state.model), env, steps)
        state.source.replay.extend(state.source.arrivals(transitions))
        metrics = recipe.update(state)
        begin, updates, update_seconds = time.perf_counter(), 0, 0.0
        while updates < _UPDATES and update_seconds * updates < _UPDATE_SECONDS:
            metrics = recipe.update(state)
            updates += 1
            update_seconds = (time.perf_counter() - begin) / updates
    finally:
        state.close()
    wrong = [name for name, value in metrics.items() if not bool(value.isfinite().all())]
    if wrong:
        raise ValueError(f"After {1 + updates} updates these are not finite: {', '.join(wrong)}.")
    return Trial(
        row_bytes=row_bytes,
        acting_seconds=acting_seconds,
        update_seconds=update_seconds,
        updates_per_step=state.model.config.updates_per_step,
        learning_starts=state.learning_starts,
        pretrains=recipe.pretrains,
        bfloat16=_bfloat16_share() if hasattr(config, "bfloat16") else None,
    )


def _bfloat16_share() -> float:
    """Seconds of a matrix product in bfloat16 over those in float32."""
    squares = (torch.ones(_SIDE, _SIDE, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    bfloat16, float32 = (Timer("square @ square", globals={"square": square}).timeit(_PRODUCTS) for square in squares)
    return bfloat16.median / float32.median
