"""`worldloom train`: a recipe from its start, or on; then what the model foresees, its card, and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldloom_rl.commands.ranges import Options, Unchecked, checked
from worldloom_rl.recipes.options import (
    DreamerV3RunConfig,
    JEPARunConfig,
    TDMPC2RunConfig,
    TokensRunConfig,
)

if TYPE_CHECKING:
    from worldloom_rl.training.options import RunConfig

_GoOn = Annotated[
    bool,
    tyro.conf.arg(
        help="begin the run, go on with it where it was cut off, or say that it is finished: the same command, again "
        "and again, for schedulers; needs --run-directory"
    ),
]


class _TypedDreamerV3(Unchecked, DreamerV3RunConfig):
    __doc__ = DreamerV3RunConfig.__doc__


class _TypedJEPA(Unchecked, JEPARunConfig):
    __doc__ = JEPARunConfig.__doc__


class _TypedTDMPC2(Unchecked, TDMPC2RunConfig):
    __doc__ = TDMPC2RunConfig.__doc__


class _TypedTokens(Unchecked, TokensRunConfig):
    __doc__ = TokensRunConfig.__doc__


def train_dreamerv3(config: Options[_TypedDreamerV3], go_on: _GoOn = False) -> None:
    """Train DreamerV3 on an environment, or on recorded data of it, into a new run directory."""
    train_family("dreamerv3", checked(DreamerV3RunConfig, config), go_on=go_on)


def train_jepa(config: Options[_TypedJEPA], go_on: _GoOn = False) -> None:
    """Train a JEPA without rewards, on an environment's images or on recorded data, into a new run directory."""
    train_family("jepa", checked(JEPARunConfig, config), go_on=go_on)


def train_tdmpc2(config: Options[_TypedTDMPC2], go_on: _GoOn = False) -> None:
    """Train TD-MPC2 on one environment or several tasks, or on recorded data of them, into a new run directory."""
    train_family("tdmpc2", checked(TDMPC2RunConfig, config), go_on=go_on)


def train_tokens(config: Options[_TypedTokens], go_on: _GoOn = False) -> None:
    """Train a token world model on an environment of images, or on recorded data of it, into a new run directory."""
    train_family("tokens", checked(TokensRunConfig, config), go_on=go_on)


def train_family(family: str, config: RunConfig, *, go_on: bool) -> None:
    """A run of a family as it was told, and what it leaves for a person.

    Args:
        go_on: it may have been begun, or finished, before.
    """
    from worldloom_rl import ranks
    from worldloom_rl.commands.console import say
    from worldloom_rl.commands.finish import finish_run, is_told
    from worldloom_rl.commands.recipes import recipe_for
    from worldloom_rl.training import loop
    from worldloom_rl.training.meeting import joined
    from worldloom_rl.training.together import check_together
    from worldloom_rl.training.train_or_resume import is_finished, train_or_resume

    recipe = recipe_for(family, config)
    check_together(recipe, config)
    with joined():
        if not go_on:
            finish_run(loop.train(recipe, config).path)
        elif ranks.told(is_finished(recipe, config)) and is_told(Path(config.run_directory or "")):
            if ranks.rank() == 0:
                say(f"{config.run_directory} is finished: {config.steps} {recipe.clock.unit}, nothing is left to do.")
        else:
            finish_run(train_or_resume(recipe, config).path)
