"""Imagination as loops over predictions: `imagine` packs what a rollout of `ImaginationEnv` gives, `dream` features.

`imagine` takes the fused loop wherever actions come from tensors, and `follow_module` for any other policy. Both give
the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from worldloom_rl.keys import DONE, POLICY_ACTION, TERMINATED, as_tuple
from worldloom_rl.noise import Noise
from worldloom_rl.world_model.core import Latent, Prediction, TensorCore
from worldloom_rl.world_model.policy import LatentPolicy

Act = Callable[[Tensor, Noise], Tensor]  # [*B, A] flat actions from features [*B, F] and noise


class Dream(NamedTuple):
    """Imagined steps as an actor-critic learns from them; time comes first."""

    features: Tensor  # [1 + H, *B, F] of the start and of all latents arrived at
    action: Tensor  # [H, *B, A] flat, as drawn
    reward: Tensor  # [H, *B, 1] of arriving
    continuation: Tensor  # [1 + H, *B, 1]


def imagine(
    model: TensorCore,
    start: TensorDictBase,
    policy: TensorDictModuleBase | None,
    actions: Tensor | TensorDictBase | None,
    horizon: int | None,
    noise: Noise,
) -> TensorDict:
    """See `WorldModel.imagine`."""
    if (policy is None) == (actions is None):
        given = "neither" if policy is None else "both"
        raise ValueError(f"imagine follows either a policy or given actions; {given} was given.")
    written = None if actions is None else _given_actions(model, actions, start.batch_size, horizon)
    if written is not None:
        horizon = next(iter(written.values())).shape[start.batch_dims]
    if horizon is None or horizon < 1:
        raise ValueError(f"imagine needs a horizon of at least 1 step, got {horizon}.")
    if written is not None:
        return follow_actions(model, start, written, noise)
    if isinstance(policy, LatentPolicy) and type(policy).forward is LatentPolicy.forward:
        return follow_latent_policy(model, start, policy, horizon, noise)
    assert policy is not None
    return follow_module(model, start, policy, horizon, noise)


def follow_actions(
    model: TensorCore, start: TensorDictBase, actions: dict[NestedKey, Tensor], noise: Noise
) -> TensorDict:
    """Fused steps [*B, H] under given actions [*B, H, …], by key as the environment takes them."""
    latent, steps = model.read_latent(start), []
    for action in model.action_space.flatten(actions).unbind(start.batch_dims):
        steps.append(model.predict_latent(latent, action, noise))
        latent = steps[-1].latent
    return _packed(model, start, steps, actions)


def follow_latent_policy(
    model: TensorCore, start: TensorDictBase, policy: LatentPolicy, horizon: int, noise: Noise
) -> TensorDict:
    """Fused steps [*B, H] under a policy's `act`."""
    latent, time = model.read_latent(start), start.batch_dims
    steps: list[Prediction] = []
    drawn: list[Tensor] = []
    chosen: list[dict[NestedKey, Tensor]] = []
    for _ in range(horizon):
        # What the environment would be given, and back: bounds and dtypes count as in a rollout.
        drawn.append(policy.act(latent, noise))
        chosen.append(model.action_space.unflatten(drawn[-1]))
        steps.append(model.predict_latent(latent, model.action_space.flatten(chosen[-1]), noise))
        latent = steps[-1].latent
    actions = {key: torch.stack([action[key] for action in chosen], time) for key in model.action_keys}
    actions[POLICY_ACTION] = torch.stack(drawn, time)
    return _packed(model, start, steps, actions)


def _packed(
    model: TensorCore, start: TensorDictBase, steps: list[Prediction], actions: dict[NestedKey, Tensor]
) -> TensorDict:
    """Steps from `start` as a rollout writes them; a latent is stacked once, and root and "next" are views of it."""
    names, time, horizon = model.key_map, start.batch_dims, len(steps)
    latents = [model.read_latent(start), *(step.latent for step in steps)]
    continuations = [model.continuation(latents[0]), *(step.continuation for step in steps)]
    reward = torch.stack([step.reward for step in steps], time)
    states = {names.leaf(leaf): torch.stack([latent[leaf] for latent in latents], time) for leaf in latents[0]}
    states[as_tuple(names.continuation)] = torch.stack(continuations, time)

    packed: TensorDict = _carried(model, start).unsqueeze(time).expand(*start.batch_size, horizon)
    for prefix, first in (((), 0), (("next",), 1)):
        for key, value in states.items():
            packed.set((*prefix, *key), value.narrow(time, first, horizon))
        for flag in (DONE, TERMINATED):
            packed.set((*prefix, flag), torch.zeros_like(reward, dtype=torch.bool))
    packed.set(("next", *as_tuple(names.reward)), reward)
    for key, value in actions.items():
        packed.set(key, value)
    packed.names = [*start.names, "time"]
    return packed


def follow_module(
    model: TensorCore, start: TensorDictBase, policy: TensorDictModuleBase, horizon: int, noise: Noise
) -> TensorDict:
    """Steps [*B, H] under a policy that reads and writes tensordicts; what it writes at the root is carried along."""
    names = model.key_map
    latent = model.read_latent(start)
    continuation = model.continuation(latent)
    flag = torch.zeros_like(continuation, dtype=torch.bool)
    empty = TensorDict({DONE: flag, TERMINATED: flag}, batch_size=start.batch_size, device=start.device)
    state = model.write_latent(empty.copy(), latent).set(names.continuation, continuation)
    row, rows = start, []
    for _ in range(horizon):
        row = _carried(model, row).update(state)
        row.update(policy(row))
        prediction = model.predict_latent(model.read_latent(row), model.read_action(row), noise)
        state = model.write_latent(empty.copy(), prediction.latent).set(names.continuation, prediction.continuation)
        arrived = state.copy().set(names.reward, prediction.reward)
        others = row.get("next", None)
        if others is not None:
            arrived.update(others.exclude(*arrived.keys(True, True)))
        rows.append(row.set("next", arrived))
    packed: TensorDict = TensorDict.stack(rows, start.batch_dims)
    packed.names = [*start.names, "time"]
    return packed


@torch.no_grad()
def dream(model: TensorCore, start: Latent, act: Act, horizon: int, noise: Noise) -> Dream:
    """See `WorldModel.dream`."""
    latent = start
    features, continuations = [model.latent_features(latent)], [model.continuation(latent)]
    actions: list[Tensor] = []
    rewards: list[Tensor] = []
    for _ in range(horizon):
        actions.append(act(features[-1], noise))
        latent, reward, continuation = model.predict_latent(latent, model.action_space.bounded(actions[-1]), noise)
        features.append(model.latent_features(latent))
        rewards.append(reward)
        continuations.append(continuation)
    return Dream(*(torch.stack(rows) for rows in (features, actions, rewards, continuations)))


def _given_actions(
    model: TensorCore, actions: Tensor | TensorDictBase, batch: torch.Size, horizon: int | None
) -> dict[NestedKey, Tensor]:
    """Given actions [*B, H, …] by key as the environment takes them. Raises ValueError where they do not fit."""
    steps = actions.shape[len(batch)] if len(actions.shape) > len(batch) else 0
    shape: tuple[int, ...] = (*batch, steps)
    if isinstance(actions, Tensor):
        shape = (*shape, model.action_space.width)
    if tuple(actions.shape[: len(shape)]) != shape or (isinstance(actions, Tensor) and actions.dim() != len(shape)):
        wanted = (*batch, "H", *shape[len(batch) + 1 :])
        raise ValueError(f"Given actions must have shape {wanted}, got {tuple(actions.shape)}.")
    if steps < 1 or horizon not in (None, steps):
        raise ValueError(f"Actions for {steps} steps were given with horizon={horizon}; leave the horizon out.")
    if isinstance(actions, Tensor):
        return model.action_space.unflatten(actions)
    return {key: model.read(actions, key) for key in model.action_keys}


def _carried(model: TensorCore, start: TensorDictBase) -> TensorDictBase:
    """What a step leaves as it is, for writing the step's results to: all but the reward and "next"."""
    return start.exclude(model.key_map.reward, "next", "_reset").copy()
