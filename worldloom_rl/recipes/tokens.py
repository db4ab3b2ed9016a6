"""Train a token world model on an environment: `train(Config(env="worldloom/Catch-v0"))`.

Read `update` for one gradient update, and `training.loop.step` for the walk of one agent step; the rest is set-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from worldloom_rl import ranks
from worldloom_rl.data import Arrivals
from worldloom_rl.data.laws import WindowLaw
from worldloom_rl.models.tokens import TokenWorldModel
from worldloom_rl.noise import Noise
from worldloom_rl.objectives import ImaginedActorCriticLoss, WorldModelLoss
from worldloom_rl.recipes.options import TokensRunConfig as Config
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training import loop
from worldloom_rl.training.finite import GRADIENT, check_finite
from worldloom_rl.training.recipe import Recipe, RunState
from worldloom_rl.training.replay import make_replay
from worldloom_rl.training.run_directory import RunDirectory
from worldloom_rl.training.source import Collected, Saved, closed_on_error, make_collector

_TOKENIZER_TERMS = ("loss_reconstruction", "loss_codebook", "loss_commitment")

# ------------------------------------------------------------------ one gradient update


@dataclass
class Losses:
    """The two losses of one update; no weight learns from both."""

    world_model: WorldModelLoss
    actor_critic: ImaginedActorCriticLoss


def make_losses(model: TokenWorldModel) -> Losses:
    """The losses with the numbers of the model's configuration."""
    config = model.config
    return Losses(
        world_model=WorldModelLoss(model, model.loss_weights),
        actor_critic=ImaginedActorCriticLoss(
            model,
            model.behavior,
            horizon=config.horizon,
            lambda_=config.lambda_,
            entropy_coef=config.entropy_coef,
            slow_coef=config.slow_coef,
        ),
    )


def make_optimizer(model: TokenWorldModel) -> torch.optim.AdamW:
    """One optimiser for everything that learns; the slow critic follows by itself. Norms and biases don't decay."""
    config = model.config
    parts = (
        (model.tokenizer, config.tokenizer_learning_rate, config.weight_decay),
        (model.dynamics, config.learning_rate, config.weight_decay),
        (model.behavior, config.behavior_learning_rate, 0.0),
    )
    groups = [
        {
            "params": [p for p in part.parameters() if p.requires_grad and (p.ndim > 1) == matrices],
            "lr": rate,
            "weight_decay": decay * matrices,
        }
        for part, rate, decay in parts
        for matrices in (True, False)
    ]
    # A short memory of squared gradients: what is learned changes with the data and the tokens.
    return torch.optim.AdamW(groups, betas=(0.9, 0.95))


def update(
    losses: Losses, optimizer: torch.optim.AdamW, batch: TensorDictBase, updates: int, noise: Noise | None = None
) -> dict[str, Tensor]:
    """One update of everything whose turn it is, from rows [B, T]; the metrics.

    Args:
        updates: how many came before.
    Raises FloatingPointError, with the weights as they were (codes of running means apart), if a loss or a
    gradient is not finite.
    """
    model, config = losses.world_model.model, losses.world_model.model.config
    alone = updates < config.tokenizer_updates
    model.train()
    model.tokenizer.train(alone or not config.tokenizer_updates)
    for group in optimizer.param_groups[:2]:
        left = 1 - updates / config.tokenizer_updates if alone else 1.0
        group["lr"] = config.tokenizer_learning_rate * min(1.0, 2 * left)

    weighted, posterior = losses.world_model(batch, noise)
    values = weighted.to_dict()
    if not alone and updates >= config.behavior_start:
        imagined = losses.actor_critic(posterior[:, -config.imagination_starts :].detach(), noise)
        values.update(imagined.exclude("lambda_return").to_dict())
    terms = {name: value for name, value in values.items() if name.startswith("loss_")}
    finite = dict(terms)  # also of those that this update does not learn from
    if config.tokenizer_updates:
        terms = {name: value for name, value in terms.items() if (name in _TOKENIZER_TERMS) == alone}
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    ranks.average_gradients(model.parameters())
    parts = {"tokenizer": model.tokenizer, "dynamics": model.dynamics, "behavior": model.behavior}
    for name, part in parts.items():
        finite[f"{name}_{GRADIENT}"] = nn.utils.clip_grad_norm_(part.parameters(), config.gradient_clip)
    try:
        check_finite(finite, batch, model)
        optimizer.step()
    finally:
        optimizer.zero_grad()
    if "loss_critic" in terms:
        model.behavior.update_slow()
    model.eval()
    return {**{name: value.detach() for name, value in values.items()}, "loss": total.detach()}


# ------------------------------------------------------------------ the run


@dataclass(kw_only=True)
class State(RunState[Config, TokenWorldModel]):
    """A run's state: the model, its losses and optimiser, rows and counters."""

    losses: Losses
    optimizer: torch.optim.AdamW


def make_state(config: Config) -> State:
    """A fresh state, with the environments open. Randomness is seeded here."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with closed_on_error(config.make_env(config.num_envs, ranks.process_seed(config.seed))) as env:
        model = TokenWorldModel(config.model_config, *specs_of(env)).to(config.device).eval()
        numbers = model.config
        collector = make_collector(config, env, model.make_policy())
        # Frames are read anew with the codes of today, so replay keeps no latents.
        arrivals = Arrivals(model.observation_keys, model.action_keys)
        window = numbers.context + 1
        losses, optimizer = make_losses(model), make_optimizer(model)
        replay = make_replay(config, model, arrivals, window=window, batch_size=numbers.batch_size, by=WindowLaw)
        return State(
            config=config,
            model=model,
            losses=losses,
            optimizer=optimizer,
            source=Collected(replay, arrivals, collector, config.num_envs),
            # A whole window in every environment, at least.
            learning_starts=max(numbers.min_seed_steps, window * config.num_envs * ranks.count()),
            updates_per_step=numbers.updates_per_step,
        )


class TokensRecipe(Recipe[Config, TokenWorldModel, State]):
    """The token world model as the loop runs it."""

    name = "tokens"
    title = "Token world model"
    config_class = Config
    together = True
    shown: ClassVar[Mapping[str, str]] = {"loss": "loss", "entropy": "policy_entropy"}

    def make_state(self, config: Config) -> State:
        return make_state(config)

    def update(self, state: State) -> dict[str, Tensor]:
        return update(state.losses, state.optimizer, state.sample().to(state.config.device), state.updates)

    def save(self, state: State) -> Saved:
        return {"optimizer": state.optimizer.state_dict()}

    def load(self, state: State, saved: Saved) -> None:
        state.optimizer.load_state_dict(saved["optimizer"])

    def describe(self, state: State) -> str:
        space = state.model.space
        return f"{space.count} tokens a frame of {space.vocabulary} codes"


RECIPE = TokensRecipe()


def train(config: Config) -> RunDirectory:
    """Train from the start. Returns the run directory, which holds the result."""
    return loop.train(RECIPE, config)
