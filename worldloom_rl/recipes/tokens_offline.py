"""Train a token world model from recorded episodes: `train(Config(env="worldloom/Catch-v0", data=("runs/a",)))`.

An update is that of `recipes.tokens`; here the rows are all there before the first one.
"""

from __future__ import annotations

import torch

from worldloom_rl.models.tokens import TokenWorldModel
from worldloom_rl.recipes.options import TokensRunConfig as Config
from worldloom_rl.recipes.tokens import State, TokensRecipe, make_losses, make_optimizer
from worldloom_rl.training import loop
from worldloom_rl.training.clock import UPDATES
from worldloom_rl.training.recorded import record_all
from worldloom_rl.training.run_directory import RunDirectory


def make_state(config: Config) -> State:
    """A fresh state, with the recorded episodes read. Randomness is seeded here."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    specs = config.specs()
    model = TokenWorldModel(config.model_config, *specs).to(config.device).eval()
    window, batch_size = model.config.context + 1, model.config.batch_size
    source = record_all(config, config.data, model, specs, window=window, batch_size=batch_size)
    return State(
        config=config,
        model=model,
        losses=make_losses(model),
        optimizer=make_optimizer(model),
        source=source,
        learning_starts=0,
        updates_due=float(config.steps),
    )


class OfflineTokensRecipe(TokensRecipe):
    """The token world model from recorded episodes as the loop runs it: all steps are updates."""

    name = "tokens-offline"
    title = "Token world model, offline,"
    clock = UPDATES

    def make_state(self, config: Config) -> State:
        return make_state(config)

    def describe(self, state: State) -> str:
        return f"{super().describe(state)}; learns from {state.source}"


RECIPE = OfflineTokensRecipe()


def train(config: Config) -> RunDirectory:
    """Train from the start. Returns the run directory, which holds the result."""
    return loop.train(RECIPE, config)
