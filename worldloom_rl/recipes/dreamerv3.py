"""Train DreamerV3 on an environment: `train(Config(env="CartPole-v1"))`.

Read `update` for one gradient update, and `training.loop.step` for the walk of one agent step; the rest is set-up.
Reference: danijar/dreamerv3, agent.py and embodied/run/train.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from worldloom_rl import ranks
from worldloom_rl.data import Arrivals
from worldloom_rl.data.laws import OnlineLaw
from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.noise import Noise
from worldloom_rl.objectives import (
    DisagreementLoss,
    ImaginedActorCriticLoss,
    LatentEnsemble,
    ReplayValueLoss,
    WorldModelLoss,
)
from worldloom_rl.recipes.options import DreamerV3RunConfig as Config
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training import loop
from worldloom_rl.training.collected_by_actors import collecting
from worldloom_rl.training.compilation import Gains
from worldloom_rl.training.cuda_graphs import capture
from worldloom_rl.training.finite import GRADIENT, check_finite, gradient_norm
from worldloom_rl.training.laprop import LaProp
from worldloom_rl.training.recipe import Recipe, RunState
from worldloom_rl.training.replay import make_replay
from worldloom_rl.training.run_directory import RunDirectory
from worldloom_rl.training.source import Saved, closed_on_error

# ------------------------------------------------------------------ one gradient update

# Times the coefficient of a run that explores: what is new changes as the ensemble learns, and an actor that is sure of
# one place too early stays there (on Door it never left the first room).
EXPLORING_ENTROPY = 10.0


@dataclass
class Losses:
    """The losses of one update; their sum trains everything at once."""

    world_model: WorldModelLoss
    actor_critic: ImaginedActorCriticLoss
    replay_value: ReplayValueLoss
    disagreement: DisagreementLoss | None = None  # of a run that explores: what actor and critic learn from
    captured: Callable[[TensorDictBase], TensorDictBase] | None = None  # `differentiate`, as a CUDA graph

    @property
    def ensemble(self) -> LatentEnsemble | None:
        """What disagrees, of a run that explores."""
        return None if self.disagreement is None else self.disagreement.ensemble


def make_ensemble(model: DreamerV3) -> LatentEnsemble:
    """Predictors of the next stochastic state, as wide as the model's heads."""
    return LatentEnsemble(model, leaf="stochastic", units=model.config.units).to(model.discounts.device)


def make_losses(model: DreamerV3, ensemble: LatentEnsemble | None = None) -> Losses:
    """The losses with the numbers of the model's configuration.

    Args:
        ensemble: whose disagreement actor and critic learn from, in place of the task's reward; then the actor's
            entropy counts `EXPLORING_ENTROPY` times as much.
    """
    config = model.config
    shared = {"lambda_": config.lambda_, "slow_coef": config.slow_coef}
    return Losses(
        world_model=WorldModelLoss(model, model.loss_weights),
        actor_critic=ImaginedActorCriticLoss(
            model,
            model.behavior,
            horizon=config.horizon,
            entropy_coef=config.entropy_coef * (1.0 if ensemble is None else EXPLORING_ENTROPY),
            actor_coef=config.actor_coef,
            critic_coef=config.critic_coef,
            reward=None if ensemble is None else ensemble.reward,
            **shared,
        ),
        replay_value=ReplayValueLoss(
            model, model.behavior, discount=config.discount, coef=config.replay_value_coef, **shared
        ),
        disagreement=None if ensemble is None else DisagreementLoss(model, ensemble),
    )


def make_optimizer(model: DreamerV3, ensemble: LatentEnsemble | None = None) -> LaProp:
    """One optimiser for everything that learns; the slow critic follows by itself."""
    config = model.config
    return LaProp(
        [parameter for parameter in _weights(model, ensemble) if parameter.requires_grad],
        lr=config.learning_rate,
        betas=(config.momentum, config.rms_decay),
        eps=config.eps,
        agc=config.agc,
        warmup=config.warmup,
    )


def _weights(model: DreamerV3, ensemble: LatentEnsemble | None) -> list[Tensor]:
    return [*model.parameters(), *([] if ensemble is None else ensemble.parameters())]


def compute_losses(
    losses: Losses, batch: TensorDictBase, noise: Noise | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor], TensorDictBase]:
    """Weighted losses, metrics, and the posterior latents of the rows learned from [B, T]."""
    model = losses.world_model.model
    context, starts = model.config.replay_context, model.config.imagination_starts
    weighted, posterior = losses.world_model(batch, noise)
    rows, posterior = batch[:, context:], posterior[:, context:]
    values = weighted.to_dict()
    if losses.disagreement is not None:
        values |= losses.disagreement(posterior, rows).to_dict()
        rows = rows.copy().set(model.key_map.reward, values.pop("reward"))
    last = posterior[:, -starts:]  # of all rows if `starts` is 0
    imagined = losses.actor_critic(last, noise)
    replayed = losses.replay_value(last, rows[:, -starts:], imagined["lambda_return"][..., 0])
    values |= {**imagined.to_dict(), **replayed.to_dict()}
    del values["lambda_return"]
    terms = {name: value for name, value in values.items() if name.startswith("loss_")}
    return terms, {name: value.detach() for name, value in values.items()}, posterior


def update(
    losses: Losses,
    optimizer: LaProp,
    batch: TensorDictBase,
    noise: Noise | None = None,
    *,
    bfloat16: bool = False,
) -> tuple[dict[str, Tensor], TensorDictBase]:
    """One update of everything from [B, context + T] rows: metrics, and the posterior latents to write back [B, T].

    Raises FloatingPointError, with the weights as they were, if a loss or a gradient is not finite.
    """
    model = losses.world_model.model
    if losses.captured is None:
        found = differentiate(losses, batch, noise, bfloat16=bfloat16)
    else:
        found = losses.captured(batch)
    metrics = found["metrics"].to_dict()
    try:
        terms = {name: value for name, value in metrics.items() if name.startswith("loss_")}
        check_finite({**terms, GRADIENT: gradient_norm(_weights(model, losses.ensemble))}, batch, model)
        optimizer.step()
    finally:
        if losses.captured is None:  # a graph's gradients stay where it writes them
            optimizer.zero_grad()
    model.behavior.update_slow()
    return metrics, found["posterior"]


def differentiate(
    losses: Losses, batch: TensorDictBase, noise: Noise | None = None, *, bfloat16: bool = False
) -> TensorDict:
    """One pass forward and back: adds to the gradients, and gives "metrics" and the "posterior" latents [B, T]."""
    model = losses.world_model.model
    model.train()
    with torch.autocast(model.discounts.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        terms, metrics, posterior = compute_losses(losses, batch, noise)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    ranks.average_gradients(model.parameters())
    model.eval()
    return TensorDict({"metrics": {**metrics, "loss": total.detach()}, "posterior": posterior.detach()})


def capture_gradients(losses: Losses, optimizer: LaProp, *, bfloat16: bool = False) -> None:
    """From its fourth call on `update` gets its gradients by a CUDA graph; batches keep their shape, noise is the
    model's."""

    def gradients(batch: TensorDictBase) -> TensorDict:
        optimizer.zero_grad()
        return differentiate(losses, batch, bfloat16=bfloat16)

    losses.captured = capture(gradients)


# ------------------------------------------------------------------ the run


@dataclass(kw_only=True)
class State(RunState[Config, DreamerV3]):
    """A run's state: the model, its losses and optimiser, rows and counters."""

    losses: Losses
    optimizer: LaProp


def make_state(config: Config) -> State:
    """A fresh state, with the environments open. Randomness is seeded here."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with closed_on_error(config.make_env(config.num_envs, ranks.process_seed(config.seed))) as env:
        return collecting_state(config, env, DreamerV3(config.model_config, *specs_of(env)).to(config.device).eval())


def collecting_state(config: Config, env: EnvBase, model: DreamerV3) -> State:
    """A fresh state of a run that collects with this model in these environments."""
    numbers = model.config
    losses, optimizer = make_learning(config, model)
    window = numbers.batch_length + numbers.replay_context
    arrivals = Arrivals(model.observation_keys, model.action_keys, model.latent_keys)
    replay = make_replay(config, model, arrivals, window=window, batch_size=numbers.batch_size, by=OnlineLaw)
    return State(
        config=config,
        model=model,
        losses=losses,
        optimizer=optimizer,
        source=collecting(config, env, partial(config.make_env, config.num_envs), model, arrivals, replay),
        # A batch's worth of rows, and a whole window in every environment.
        learning_starts=max(numbers.batch_size * numbers.batch_length, window * config.streams * ranks.count()),
        updates_per_step=numbers.updates_per_step,
    )


def make_learning(config: Config, model: DreamerV3) -> tuple[Losses, LaProp]:
    """The losses and the optimiser of a run."""
    ensemble = make_ensemble(model) if config.explore else None
    losses, optimizer = make_losses(model, ensemble), make_optimizer(model, ensemble)
    if config.cuda_graphs:
        capture_gradients(losses, optimizer, bfloat16=config.bfloat16)
    return losses, optimizer


class DreamerV3Recipe(Recipe[Config, DreamerV3, State]):
    """DreamerV3 as the loop runs it."""

    name = "dreamerv3"
    title = "DreamerV3"
    config_class = Config
    together = True
    # size12m from vectors, in tests/benchmarks/README.md: size1m and pixels lose; with AVX-512 0.04 of size1m's update
    gains = Gains(acting=-0.08, update=0.02, build=200.0, largest=10_000_000_000)
    shown: ClassVar[Mapping[str, str]] = {"loss": "loss", "entropy": "policy_entropy"}

    def make_state(self, config: Config) -> State:
        return make_state(config)

    def update(self, state: State) -> dict[str, Tensor]:
        """One update from a batch of the source, whose rows get the posterior latents back."""
        batch = state.sample()
        metrics, posterior = update(
            state.losses, state.optimizer, batch.to(state.config.device), bfloat16=state.config.bfloat16
        )
        rows = batch[:, state.model.config.replay_context :].select("replay")
        state.source.write_back(rows.update(posterior.to(rows.device)))
        return metrics

    def save(self, state: State) -> Saved:
        ensemble = state.losses.ensemble
        explored = {} if ensemble is None else {"ensemble": ensemble.state_dict()}
        return {"optimizer": state.optimizer.state_dict(), **explored}

    def load(self, state: State, saved: Saved) -> None:
        state.optimizer.load_state_dict(saved["optimizer"])
        if state.losses.ensemble is not None:
            state.losses.ensemble.load_state_dict(saved["ensemble"])

    def describe(self, state: State) -> str:
        numbers = state.model.config
        ratio = numbers.updates_per_step * numbers.batch_size * numbers.batch_length
        kept = ", ".join(f"{name} as {codec}" for name, codec in state.config.latent_codec(numbers).items())
        explores = "; explores: actor and critic learn from disagreement, not from the reward; entropy counts tenfold"
        return (
            f"{numbers.updates_per_step:g} updates a step: the official train_ratio {ratio:g}{state.config.official}"
            f"{kept and f'; replay keeps {kept}'}"
            f"{explores * state.config.explore}"
        )


RECIPE = DreamerV3Recipe()


def train(config: Config) -> RunDirectory:
    """Train from the start. Returns the run directory, which holds the result."""
    return loop.train(RECIPE, config)
