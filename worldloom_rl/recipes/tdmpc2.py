"""Train TD-MPC2 on an environment: `train(Config(env="Pendulum-v1", action_repeat=2))`.

Read `update` for one gradient update, and `loop.step` for the walk of one agent step; the rest is set-up.
Reference: nicklashansen/tdmpc2, trainer/online_trainer.py and tdmpc2.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor

from worldloom_rl.data import Arrivals
from worldloom_rl.envs import episode_length
from worldloom_rl.functional.classification import rate_and_f1
from worldloom_rl.models.tdmpc2 import TDMPC2, PolicyLoss, TDMPC2Config, make_planner
from worldloom_rl.noise import Noise
from worldloom_rl.objectives import WorldModelLoss
from worldloom_rl.pretrained.files import specs_of
from worldloom_rl.recipes import loop
from worldloom_rl.recipes.options import TDMPC2RunConfig as Config
from worldloom_rl.training.cuda_graphs import record
from worldloom_rl.training.run_directory import RunDirectory

# ------------------------------------------------------------------ one gradient update


@dataclass
class Optimizers:
    """The two optimisers of TD-MPC2."""

    model: torch.optim.Adam  # everything but the policy prior
    policy: torch.optim.Adam


def make_optimizers(model: TDMPC2, *, capturable: bool = False) -> Optimizers:
    """Adam for the world model and the Qs, with a slower encoder; Adam with a larger ε for the policy prior.

    Args:
        capturable: on a GPU, let `update` be recorded as a CUDA graph.
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
    """One update, in the official order: model, then policy on the new Qs, then targets. Returns metrics as tensors."""
    model.train()
    losses, posterior = world_model_loss(batch, noise)
    total = losses.sum(reduce=True)
    total.backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(_parameters(optimizers.model), model.config.grad_clip_norm)
    optimizers.model.step()
    optimizers.model.zero_grad()

    policy = policy_loss(posterior.detach(), noise)
    policy["loss_policy"].backward()
    policy_grad_norm = torch.nn.utils.clip_grad_norm_(_parameters(optimizers.policy), model.config.grad_clip_norm)
    optimizers.policy.step()
    # Only the policy's gradients: the task embedding's joins the next model update, as in the official code.
    optimizers.policy.zero_grad()
    model.behavior.update_target()
    model.eval()
    metrics = {**losses.to_dict(), "loss": total, "grad_norm": grad_norm, "policy_grad_norm": policy_grad_norm}
    if model.config.episodic:
        ended = batch[model.key_map.terminated][:, -1].to(total.dtype)
        rate, f1 = rate_and_f1(1 - posterior[model.key_map.continuation][:, -1].detach(), ended)
        metrics |= {"termination_rate": rate, "termination_f1": f1}
    return {name: value.detach() for name, value in {**metrics, **policy.to_dict()}.items()}


def record_update(
    model: TDMPC2, world_model_loss: WorldModelLoss, policy_loss: PolicyLoss, optimizers: Optimizers
) -> Callable[[TensorDictBase], TensorDictBase]:
    """`update` of a batch as a CUDA graph from the fourth call on, for a model of one task and capturable optimisers.

    Batches keep their shape, noise is the model's.
    """
    if model.task_embedding is not None:
        raise ValueError("A CUDA graph cannot carry the task embedding's gradient from one update to the next.")
    return record(lambda batch: TensorDict(update(model, world_model_loss, policy_loss, optimizers, batch)))


def loss_weights(config: TDMPC2Config) -> dict[str, float]:
    """The weights of the model's loss terms."""
    weights = {"consistency": config.consistency_coef, "reward": config.reward_coef, "value": config.value_coef}
    return {**weights, "termination": config.termination_coef} if config.episodic else weights


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


# ------------------------------------------------------------------ the run


@dataclass(kw_only=True)
class State(loop.RunState):
    """A run's state: the model, its losses and optimisers, data and counters."""

    config: Config
    model: TDMPC2
    world_model_loss: WorldModelLoss
    policy_loss: PolicyLoss
    optimizers: Optimizers
    recorded: Callable[[TensorDictBase], TensorDictBase] | None  # `update`, as a CUDA graph


def make_state(config: Config) -> State:
    """A fresh state, with the environments open. Randomness is seeded here."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    env = config.make_env(config.num_envs, config.seed)
    length = episode_length(env)
    model_config = config.model_config(length)
    model = TDMPC2(model_config, *specs_of(env)).to(config.device).eval()
    default = max(model_config.min_seed_steps, 5 * length * config.num_envs)
    seed_steps = default if config.seed_steps is None else config.seed_steps
    world_model_loss, policy_loss = WorldModelLoss(model, loss_weights(model_config)), PolicyLoss(model)
    optimizers = make_optimizers(model, capturable=config.cuda_graphs)
    learning = model, world_model_loss, policy_loss, optimizers
    collector = loop.make_collector(config, env, make_policy(model), init_random_frames=seed_steps)
    arrivals = Arrivals(model.observation_keys, model.action_keys)
    return State(
        config=config,
        model=model,
        world_model_loss=world_model_loss,
        policy_loss=policy_loss,
        optimizers=optimizers,
        recorded=record_update(*learning) if config.cuda_graphs else None,
        replay=loop.make_replay(
            config,
            model,
            arrivals,
            window=model_config.horizon + 1,
            batch_size=model_config.batch_size,
            by="episode",
        ),
        arrivals=arrivals,
        collector=collector,
        batches=iter(collector),
        learning_starts=seed_steps,
        running_returns=torch.zeros(config.num_envs),
    )


def make_policy(model: TDMPC2) -> TensorDictSequential:
    """Observation → latent → plan → action, for any collector."""
    return TensorDictSequential(model.encode, make_planner(model))


def _update(state: State) -> dict[str, Tensor]:
    batch = state.replay.sample().to(state.config.device)
    if state.recorded is not None:
        return state.recorded(batch).to_dict()  # type: ignore[no-any-return]
    return update(state.model, state.world_model_loss, state.policy_loss, state.optimizers, batch)


def _check(state: State, transitions: TensorDictBase) -> None:
    if not state.model.config.episodic and bool(transitions["next", "terminated"].any()):
        raise ValueError(
            f"{state.config.env} ended in a terminal state, but the model learns no termination. Train with --episodic."
        )


def _save(state: State) -> dict[str, Any]:
    return {
        "model_optimizer": state.optimizers.model.state_dict(),
        "policy_optimizer": state.optimizers.policy.state_dict(),
        "policy_scale": state.policy_loss.scale.state_dict(),
        "task_gradient": None if state.model.task_embedding is None else state.model.task_embedding.weight.grad,
    }


def _load(state: State, learning: dict[str, Any]) -> None:
    for optimizer, saved in (
        (state.optimizers.model, learning["model_optimizer"]),
        (state.optimizers.policy, learning["policy_optimizer"]),
    ):
        for group in saved["param_groups"]:  # of this run and this device, whatever wrote the checkpoint
            group["capturable"] = state.config.cuda_graphs
        optimizer.load_state_dict(saved)
    state.policy_loss.scale.load_state_dict(learning["policy_scale"])
    if state.model.task_embedding is not None:
        state.model.task_embedding.weight.grad = learning["task_gradient"]


RECIPE = loop.Recipe(
    name="tdmpc2",
    title="TD-MPC2",
    config_class=Config,
    make_state=make_state,
    make_policy=make_policy,
    update=_update,
    check=_check,
    save=_save,
    load=_load,
    describe=lambda state: f"{state.model.config.updates_per_step:g} updates a step",
    burst=True,
    shown={"loss": "loss", "policy": "loss_policy"},
)


def train(config: Config) -> RunDirectory:
    """Train from the start. Returns the run directory, which holds the result."""
    return loop.train(RECIPE, config)
