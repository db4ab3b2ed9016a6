"""`worldloom train`: a recipe from its start, then what the model foresees, its card, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tyro

from worldloom_rl.recipes.options import (
    DreamerV3RunConfig,
    JEPARunConfig,
    TDMPC2RunConfig,
    TokensRunConfig,
)

if TYPE_CHECKING:
    from worldloom_rl.training.run_directory import RunDirectory


def train_dreamerv3(config: tyro.conf.OmitArgPrefixes[DreamerV3RunConfig]) -> None:
    """Train DreamerV3 on an environment, or on recorded data of it, into a new run directory."""
    from worldloom_rl.recipes import dreamerv3, dreamerv3_offline

    _finish((dreamerv3_offline if config.data else dreamerv3).train(config))


def train_jepa(config: tyro.conf.OmitArgPrefixes[JEPARunConfig]) -> None:
    """Train a JEPA without rewards, on an environment's images or on recorded data, into a new run directory."""
    from worldloom_rl.recipes import jepa

    _finish(jepa.train(config))


def train_tdmpc2(config: tyro.conf.OmitArgPrefixes[TDMPC2RunConfig]) -> None:
    """Train TD-MPC2 on one environment or several tasks, or on recorded data of them, into a new run directory."""
    from worldloom_rl.recipes import tdmpc2, tdmpc2_offline

    _finish((tdmpc2_offline if config.data else tdmpc2).train(config))


def train_tokens(config: tyro.conf.OmitArgPrefixes[TokensRunConfig]) -> None:
    """Train a token world model on an environment of images, or on recorded data of it, into a new run directory."""
    from worldloom_rl.recipes import tokens, tokens_offline

    _finish((tokens_offline if config.data else tokens).train(config))


def _finish(run: RunDirectory) -> None:
    from worldloom_rl.commands.finish import finish_run

    finish_run(run.path)
