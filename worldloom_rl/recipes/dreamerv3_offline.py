"""Train DreamerV3 from recorded episodes of an environment: `train(Config(env="dmc:walker-walk", data=("runs/a",)))`.

An update is that of `recipes.dreamerv3`; here the rows are all there before the first one. They have no latents yet: a
window that is drawn for the first time starts from zeros, after that from the posterior that was written back.
"""

from __future__ import annotations

import torch

from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.recipes.dreamerv3 import DreamerV3Recipe, State, make_learning
from worldloom_rl.recipes.options import DreamerV3RunConfig as Config
from worldloom_rl.training import loop
from worldloom_rl.training.clock import UPDATES
from worldloom_rl.training.recorded import RecordedWithLatents, record_all
from worldloom_rl.training.run_directory import RunDirectory


def make_state(config: Config) -> State:
    """A fresh state, with the recorded episodes read. Randomness is seeded here."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    specs = config.specs()
    model = DreamerV3(config.model_config, *specs).to(config.device).eval()
    numbers = model.config
    losses, optimizer = make_learning(config, model)
    window = numbers.batch_length + numbers.replay_context
    source = record_all(
        config, config.data, model, specs, RecordedWithLatents, window=window, batch_size=numbers.batch_size
    )
    return State(
        config=config,
        model=model,
        losses=losses,
        optimizer=optimizer,
        source=source,
        learning_starts=0,
        updates_due=float(config.steps),
    )


class OfflineDreamerV3Recipe(DreamerV3Recipe):
    """DreamerV3 from recorded episodes as the loop runs it: all steps are updates."""

    name = "dreamerv3-offline"
    title = "DreamerV3, offline,"
    clock = UPDATES

    def make_state(self, config: Config) -> State:
        return make_state(config)

    def describe(self, state: State) -> str:
        return f"learns from {state.source}"


RECIPE = OfflineDreamerV3Recipe()


def train(config: Config) -> RunDirectory:
    """Train from the start. Returns the run directory, which holds the result."""
    return loop.train(RECIPE, config)
