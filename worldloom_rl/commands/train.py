"""`worldloom train`: a recipe from its start, then what the model foresees, its card, and what to do next."""

from __future__ import annotations

import tyro

from worldloom_rl.commands.recipes import find_recipe
from worldloom_rl.recipes.options import (
    DreamerV3RunConfig,
    JEPARunConfig,
    RunConfig,
    TDMPC2RunConfig,
    TokensRunConfig,
)


def train_dreamerv3(config: tyro.conf.OmitArgPrefixes[DreamerV3RunConfig]) -> None:
    """Train DreamerV3 on an environment, into a new run directory."""
    _train("dreamerv3", config)


def train_jepa(config: tyro.conf.OmitArgPrefixes[JEPARunConfig]) -> None:
    """Train a JEPA without rewards, on an environment's images or on recorded data, into a new run directory."""
    _train("jepa", config)


def train_tdmpc2(config: tyro.conf.OmitArgPrefixes[TDMPC2RunConfig]) -> None:
    """Train TD-MPC2 on an environment, into a new run directory."""
    _train("tdmpc2", config)


def train_tokens(config: tyro.conf.OmitArgPrefixes[TokensRunConfig]) -> None:
    """Train a token world model on an environment of images, into a new run directory."""
    _train("tokens", config)


def _train(name: str, config: RunConfig) -> None:
    recipe = find_recipe(name)
    from worldloom_rl.commands.finish import finish_run
    from worldloom_rl.recipes import loop

    finish_run(loop.train(recipe, config).path)
