"""The recipes by name; the module of one is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worldloom_rl.training.options import RunConfig
    from worldloom_rl.training.recipe import AnyRecipe

RECIPES = {
    "dreamerv3": "worldloom_rl.recipes.dreamerv3",
    "dreamerv3-offline": "worldloom_rl.recipes.dreamerv3_offline",
    "dreamerv3-finetune": "worldloom_rl.recipes.dreamerv3_finetune",
    "jepa": "worldloom_rl.recipes.jepa",
    "jepa-finetune": "worldloom_rl.recipes.jepa_finetune",
    "tdmpc2": "worldloom_rl.recipes.tdmpc2",
    "tdmpc2-offline": "worldloom_rl.recipes.tdmpc2_offline",
    "tdmpc2-finetune": "worldloom_rl.recipes.tdmpc2_finetune",
    "tokens": "worldloom_rl.recipes.tokens",
    "tokens-offline": "worldloom_rl.recipes.tokens_offline",
}


def find_recipe(name: str) -> AnyRecipe:
    """The recipe of that name. Raises ValueError for another."""
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}; known are {sorted(RECIPES)}.")
    recipe: AnyRecipe = importlib.import_module(RECIPES[name]).RECIPE
    return recipe


def recipe_for(family: str, config: RunConfig) -> AnyRecipe:
    """The recipe by which a family learns what the configuration asks for: one of its own may take recorded data."""
    offline = f"{family}-offline"
    return find_recipe(offline if config.data and offline in RECIPES else family)
