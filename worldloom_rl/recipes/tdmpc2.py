"""Train TD-MPC2 on an environment: `train(Config(env="Pendulum-v1", action_repeat=2))`.

Read `update` for one gradient update, and `training.loop.step` for the walk of one agent step; the rest is set-up.
Reference: nicklashansen/tdmpc2, trainer/online_trainer.py and tdmpc2.py.
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
from worldloom_rl.data.laws import EpisodeLaw
from worldloom_rl.envs import episode_length
from worldloom_rl.functional.classification import rate_and_f1
from worldloom_rl.models.tdmpc2 import TDMPC2, PolicyLoss
from worldloom_rl.models.tdmpc2.config import ENDS
from worldloom_rl.noise import Noise
from worldloom_rl.objectives import WorldModelLoss
from worldloom_rl.recipes.options import TDMPC2RunConfig as Config
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training import first_look, loop
from worldloom_rl.training.collected_by_actors import collecting
from worldloom_rl.training.compilation import Gains
from worldloom_rl.training.cuda_graphs import capture
from worldloom_rl.training.evaluate import Evaluation, by_task, play_in
from worldloom_rl.training.finite import GRADIENT, check_finite, not_finite
from worldloom_rl.training.recipe import Recipe, RunState
from worldloom_rl.training.replay import check_window, make_replay
from worldloom_rl.training.run_directory import RunDirectory
from worldloom_rl.training.source import ReplaySource, Saved, Source, closed_on_error

# ------------------------------------------------------------------ one gradient update


@dataclass
class Optimizers:
    """The two optimisers of TD-MPC2."""

    model: torch.optim.Adam  # everything but the policy prior
    policy: torch.optim.Adam


def make_optimizers(model: TDMPC2, *, capturable: bool = False) -> Optimizers:
    """Adam for the world model and the Qs, with a slower encoder; Adam with a larger ε for the policy prior.

    Args:
        capturable: on a GPU, let an update be captured as a CUDA graph.
    """
    adam = partial(torch.optim.Adam, lr=model.config.learning_rate, fused=True, capturable=capturable)
    config = model.config
    parts = [model.dynamics, model.reward_head, model.termination_head, model.behavior.q_ensemble, model.task_embedding]
    encoder_rate = config.learning_rate * config.encoder_learning_rate_scale
    groups = [{"params": list(model.encoder.parameters()), "lr": encoder_rate}]
    groups += [{"params": list(part.parameters())} for part in parts if part is not None]
    return Optimizers(
        model=adam(groups),
        policy=adam(model.behavior.policy.parameters(), eps=1e-5),
    )


def update(
    model: TDMPC2,
    world_model_loss: WorldModelLoss,
    policy_loss: PolicyLoss,
    optimizers: Optimizers,
    batch: TensorDictBase,
    noise: Noise | None = None,
) -> dict[str, Tensor]:
    """One update, in the official order: model, then policy on the new Qs, then targets. Returns metrics as tensors.

    Raises FloatingPointError if a loss or a gradient is not finite; weights that it would move are as they were.
    """
    return _settled(model, learn(model, world_model_loss, policy_loss, optimizers, batch, noise), batch)


def learn(
    model: TDMPC2,
    world_model_loss: WorldModelLoss,
    policy_loss: PolicyLoss,
    optimizers: Optimizers,
    batch: TensorDictBase,
    noise: Noise | None = None,
) -> dict[str, Tensor]:
    """The part of an update that looks at no number: steps of model and policy, none of them by losses not finite."""
    model.train()
    losses, posterior = world_model_loss(batch, noise)
    total = losses.sum(reduce=True)
    total.backward()
    ranks.average_gradients(_parameters(optimizers.model))
    grad_norm = torch.nn.utils.clip_grad_norm_(_parameters(optimizers.model), model.config.grad_clip_norm)
    _step(optimizers.model, unless=not_finite(total, grad_norm))

    policy = policy_loss(posterior.detach(), noise)
    policy["loss_policy"].backward()
    ranks.average_gradients(model.parameters())  # with what the task embedding keeps for the next update
    policy_grad_norm = torch.nn.utils.clip_grad_norm_(_parameters(optimizers.policy), model.config.grad_clip_norm)
    # Only the policy's gradients: the task embedding's joins the next model update, as in the official code.
    _step(optimizers.policy, unless=not_finite(total, grad_norm, policy["loss_policy"], policy_grad_norm))
    model.eval()
    metrics = {**losses.to_dict(), "loss": total, "grad_norm": grad_norm, "policy_grad_norm": policy_grad_norm}
    if model.config.episodic:
        ended = batch[model.key_map.terminated][:, -1].to(total.dtype)
        rate, f1 = rate_and_f1(1 - posterior[model.key_map.continuation][:, -1].detach(), ended)
        metrics |= {"termination_rate": rate, "termination_f1": f1}
    return {name: value.detach() for name, value in {**metrics, **policy.to_dict()}.items()}


def capture_update(
    model: TDMPC2, world_model_loss: WorldModelLoss, policy_loss: PolicyLoss, optimizers: Optimizers
) -> Callable[[TensorDictBase], dict[str, Tensor]]:
    """`update` of a batch, by a CUDA graph from the fourth call on, for a model of one task and capturable optimisers.

    Batches keep their shape, noise is the model's.
    """
    if model.task_embedding is not None:
        raise ValueError("A CUDA graph cannot carry the task embedding's gradient from one update to the next.")
    captured = capture(lambda batch: TensorDict(learn(model, world_model_loss, policy_loss, optimizers, batch)))
    return lambda batch: _settled(model, captured(batch).to_dict(), batch)


def _settled(model: TDMPC2, metrics: dict[str, Tensor], batch: TensorDictBase) -> dict[str, Tensor]:
    """The metrics of `learn`, once its losses are known to be finite and the targets have moved."""
    losses = {name: value for name, value in metrics.items() if name.startswith("loss")}
    norms = {name: value for name, value in metrics.items() if name.endswith(GRADIENT)}
    check_finite(losses | norms, batch, model)
    model.behavior.update_target()
    return metrics


def _step(optimizer: torch.optim.Adam, *, unless: Tensor) -> None:
    """A step, unless that is 1: the device decides, so that nobody waits for it. Gradients are gone then."""
    optimizer.found_inf = unless  # type: ignore[attr-defined]  # as torch.amp.GradScaler tells a fused optimiser
    optimizer.step()
    optimizer.zero_grad()


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


# ------------------------------------------------------------------ the run


@dataclass(kw_only=True)
class State(RunState[Config, TDMPC2]):
    """A run's state: the model, its losses and optimisers, rows and counters."""

    world_model_loss: WorldModelLoss
    policy_loss: PolicyLoss
    optimizers: Optimizers
    update: Callable[[TensorDictBase], dict[str, Tensor]]  # of a batch on the device, maybe by a CUDA graph


def settled(config: Config) -> Config:
    """The configuration with what random episodes of its environment tell, where it says nothing of it."""
    if config.tasks or config.earlier or not first_look.unknown(config):
        return first_look.settled(config)
    seen = first_look.look(config)
    return first_look.settled(config, episodic=seen.terminates, rescale_observations=seen.bounds_apart)


def make_state(config: Config) -> State:
    """A fresh state, with the environments open. Randomness is seeded here."""
    config = settled(config)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with closed_on_error(config.make_collection_env(ranks.process_seed(config.seed))) as env:
        length, count = episode_length(env), env.batch_size.numel()
        numbers = config.model_config(length)
        check_window(numbers.horizon + 1, length, f"--overrides horizon={length}")
        model = TDMPC2(numbers, *specs_of(env)).to(config.device).eval()
        streams = count * max(1, config.actors) * ranks.count()
        default = max(numbers.min_seed_steps, 5 * length * streams)
        seed_steps = default if config.seed_steps is None else config.seed_steps
        source = collected(config, env, model, random_steps=seed_steps)
        return state_of(config, model, source, learning_starts=seed_steps, updates_per_step=numbers.updates_per_step)


def collected(config: Config, env: EnvBase, model: TDMPC2, *, random_steps: int | None) -> ReplaySource:
    """The environments with the model's planner in them, after so many random agent steps, and an empty replay."""
    arrivals = Arrivals(model.observation_keys, model.action_keys)
    window, batch_size = model.config.horizon + 1, model.config.batch_size
    replay = make_replay(config, model, arrivals, window=window, batch_size=batch_size, by=EpisodeLaw)
    return collecting(config, env, config.make_collection_env, model, arrivals, replay, random_steps)


def state_of(
    config: Config,
    model: TDMPC2,
    source: Source,
    *,
    learning_starts: int = 0,
    updates_per_step: float = 0.0,
    updates_due: float = 0.0,
) -> State:
    """A fresh state of a run, with the losses and optimisers of its model; the counts are those of `RunState`."""
    world_model_loss, policy_loss = WorldModelLoss(model, model.loss_weights), PolicyLoss(model)
    optimizers = make_optimizers(model, capturable=config.cuda_graphs)
    learning = model, world_model_loss, policy_loss, optimizers
    return State(
        config=config,
        model=model,
        world_model_loss=world_model_loss,
        policy_loss=policy_loss,
        optimizers=optimizers,
        update=capture_update(*learning) if config.cuda_graphs else partial(update, *learning),
        source=source,
        learning_starts=learning_starts,
        updates_per_step=updates_per_step,
        updates_due=updates_due,
    )


class TDMPC2Recipe(Recipe[Config, TDMPC2, State]):
    """TD-MPC2 as the loop runs it."""

    name = "tdmpc2"
    title = "TD-MPC2"
    config_class = Config
    pretrains = True
    together = True
    # 5m from vectors, tests/benchmarks/README.md: `plan`, `tdmpc2-update`; the build's minute was not measured
    gains = Gains(acting=0.10, update=0.06, build=60.0, largest=10_000_000)
    shown: ClassVar[Mapping[str, str]] = {"loss": "loss", "policy": "loss_policy"}

    def settle(self, config: Config) -> Config:
        return settled(config)

    def make_state(self, config: Config) -> State:
        return make_state(config)

    def update(self, state: State) -> dict[str, Tensor]:
        return state.update(state.sample().to(state.config.device))

    def check(self, state: State, transitions: TensorDictBase) -> None:
        if not state.model.config.episodic and bool(transitions["next", "terminated"].any()):
            raise ValueError(
                f"{state.config.task} ended in a terminal state, but the model learns no termination: it was told so, "
                f"or random episodes did not show it. {self.way_to_terminations(state.config)}"
            )

    def way_to_terminations(self, config: Config) -> str:
        """What a person does whose environment ends, for the end of a sentence."""
        return "Train it by itself (--env), with --episodic." if config.tasks else "Train with --episodic."

    def save(self, state: State) -> Saved:
        return {
            "model_optimizer": state.optimizers.model.state_dict(),
            "policy_optimizer": state.optimizers.policy.state_dict(),
            "policy_scale": state.policy_loss.scale.state_dict(),
            "task_gradient": None if state.model.task_embedding is None else state.model.task_embedding.weight.grad,
        }

    def load(self, state: State, saved: Saved) -> None:
        for optimizer, kept in (
            (state.optimizers.model, saved["model_optimizer"]),
            (state.optimizers.policy, saved["policy_optimizer"]),
        ):
            for group in kept["param_groups"]:  # of this run and this device, whatever wrote the checkpoint
                group["capturable"] = state.config.cuda_graphs
            optimizer.load_state_dict(kept)
        state.policy_loss.scale.load_state_dict(saved["policy_scale"])
        if state.model.task_embedding is not None:
            state.model.task_embedding.weight.grad = saved["task_gradient"]

    def evaluate(
        self, config: Config, model: TDMPC2, episodes: int, seed: int, check: Callable[[], None]
    ) -> Evaluation:
        """Episodes of its policy; of several tasks as many of each, all of them planned for side by side."""
        if not config.tasks:
            return super().evaluate(config, model, episodes, seed, check)
        env = config.make_evaluation_env(episodes, seed)
        found = play_in(env, model, self.make_policy(model), seed, check)
        return by_task(found, config.played_tasks)

    def describe(self, state: State) -> str:
        numbers, env = state.model.config, state.source.environment
        ours = ENDS.get(state.config.preset, ()) if numbers.episodic else ()
        of_ends = "".join(f", {name} {getattr(numbers, name):g}" for name in ours)
        told = f"{numbers.updates_per_step:g} updates a step{of_ends}{state.config.official}"
        if env is None or isinstance(numbers.discount, tuple):
            return told
        return f"{told}; discount {numbers.discount:g}, at most {episode_length(env)} agent steps an episode"


RECIPE = TDMPC2Recipe()


def train(config: Config) -> RunDirectory:
    """Train from the start. Returns the run directory, which holds the result."""
    return loop.train(RECIPE, config)
