"""`worldloom train`: a recipe from its start, then what the model foresees, its card, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tyro

from worldloom_rl.commands.ranges import Unchecked, checked
from worldloom_rl.recipes.options import (
    DreamerV3RunConfig,
    JEPARunConfig,
    TDMPC2RunConfig,
    TokensRunConfig,
)

if TYPE_CHECKING:
    from worldloom_rl.training.run_directory import RunDirectory


class _TypedDreamerV3(Unchecked, DreamerV3RunConfig):
    __doc__ = DreamerV3RunConfig.__doc__


class _TypedJEPA(Unchecked, JEPARunConfig):
    __doc__ = JEPARunConfig.__doc__


class _TypedTDMPC2(Unchecked, TDMPC2RunConfig):
    __doc__ = TDMPC2RunConfig.__doc__


class _TypedTokens(Unchecked, TokensRunConfig):
    __doc__ = TokensRunConfig.__doc__


def train_dreamerv3(config: tyro.conf.OmitArgPrefixes[_TypedDreamerV3]) -> None:
    """Train DreamerV3 on an environment, or on recorded data of it, into a new run directory."""
    told = checked(DreamerV3RunConfig, config)
    from worldloom_rl.recipes import dreamerv3, dreamerv3_offline

    _finish((dreamerv3_offline if told.data else dreamerv3).train(told))


def train_jepa(config: tyro.conf.OmitArgPrefixes[_TypedJEPA]) -> None:
    """Train a JEPA without rewards, on an environment's images or on recorded data, into a new run directory."""
    told = checked(JEPARunConfig, config)
    from worldloom_rl.recipes import jepa

    _finish(jepa.train(told))


def train_tdmpc2(config: tyro.conf.OmitArgPrefixes[_TypedTDMPC2]) -> None:
    """Train TD-MPC2 on one environment or several tasks, or on recorded data of them, into a new run directory."""
    told = checked(TDMPC2RunConfig, config)
    from worldloom_rl.recipes import tdmpc2, tdmpc2_offline

    _finish((tdmpc2_offline if told.data else tdmpc2).train(told))


def train_tokens(config: tyro.conf.OmitArgPrefixes[_TypedTokens]) -> None:
    """Train a token world model on an environment of images, or on recorded data of it, into a new run directory."""
    told = checked(TokensRunConfig, config)
    from worldloom_rl.recipes import tokens, tokens_offline

    _finish((tokens_offline if told.data else tokens).train(told))


def _finish(run: RunDirectory) -> None:
    from worldloom_rl.commands.finish import finish_run

    finish_run(run.path)
