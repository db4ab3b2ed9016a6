"""A plan: sample action sequences, value them in imagination, refit their distribution to the best, choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from worldloom_rl.noise import Noise
from worldloom_rl.planners.distribution import SequenceDistribution
from worldloom_rl.planners.options import PlanOptions
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.world_model import Latent, WorldModel, repeat_latent

# [B, K] weights of the elites, summing to 1, from their values, best first.
Score = Callable[[Tensor], Tensor]
# [H, B, A] the actions to execute, from the mean [H, B, A], elite sequences [H, B, K, A] and their weights [B, K].
Choose = Callable[[ActionSpace, Tensor, Tensor, Tensor, Noise], Tensor]


class Iteration(NamedTuple):
    """One round of sampling and refitting; H horizon, B environments, N samples, K elites."""

    actions: Tensor  # [H, B, N, A]
    value: Tensor  # [B, N]
    elite_index: Tensor  # [B, K] into the samples, best first
    score: Tensor  # [B, K], sums to 1
    mean: Tensor  # [H, B, A], of categoricals the probabilities
    std: Tensor  # [H, B, A]


class Plan(NamedTuple):
    """The result of planning for B environments."""

    action: Tensor  # [B, A] flat, to be executed now
    mean: Tensor  # [B, H, A], warm start of the next plan
    iterations: list[Iteration]
    sequence: Tensor  # [B, E, A] flat, to be executed before the next plan; `action` is its first
    elites: Tensor | None = None  # [B, S, H, A] the best S = `carry_elites` sequences, for the next plan


def plan(
    model: WorldModel,
    latent: Latent,
    previous_mean: Tensor,
    distribution: SequenceDistribution,
    noise: Noise,
    *,
    explore: bool,
    score: Score,
    choose: Choose,
    previous_elites: Tensor | None = None,
) -> Plan:
    """The plan for B environments at once.

    Args:
        latent: leaves [B, …].
        previous_mean: [B, H, A] warm start, `init_mean` (zeros unless given) for none.
        previous_elites: [B, S, H, A] of the previous plan, NaN for none.
        distribution: with the options of the plan.
        explore: add action noise to the actions that will be executed.
        score: how much each elite weighs; choose: what is executed. The two make a planner.
    Draws, in order: the policy trajectories step by step, what carried elites lack, then per iteration the samples,
    the last latent's action and what the terminal value draws, then the choice among the elites and the exploration
    noise.
    """
    options = distribution.options
    mask = model.action_mask(latent)  # [B, A], of the actions that a task has
    mean = distribution.warm_start(previous_mean)
    followed = [part.to(mean.dtype) for part in policy_trajectories(model, latent, options, noise)]
    std = distribution.init_std.expand_as(mean)
    beside = followed  # sequences that are not drawn
    if previous_elites is not None:
        beside = [*followed, _moved_on(distribution, previous_elites, mean, noise)]
    iterations: list[Iteration] = []
    for number in range(options.iterations):
        given = sum(part.shape[2] for part in beside)
        count = options.samples_of(number, given) - given
        actions = torch.cat([*beside, distribution.sample(mean, std, count, noise)], 2)
        if mask is not None:
            actions = actions * mask.unsqueeze(-2)
        value = trajectory_value(model, latent, actions, options, noise).nan_to_num(0.0)
        elite_value, elite_index = value.topk(options.num_elites, -1)
        elites = take_sequences(actions, elite_index)
        weight = score(elite_value)
        mean, std = refit(distribution, elites, weight, mean, std)
        if mask is not None:
            mean, std = mean * mask, std * mask
        beside = [*followed, elites[:, :, : options.keep_elites]] if options.keep_elites else followed
        iterations.append(Iteration(actions, value, elite_index, weight, mean, std))
    chosen = choose(model.action_space, mean, elites, weight, noise)[: options.execute]
    if explore:
        chosen = distribution.explore(chosen, mean, std, noise)
    kept = elites[:, :, : options.carry_elites].permute(1, 2, 0, 3) if options.carry_elites else None
    return Plan(chosen[0], mean.transpose(0, 1), iterations, chosen.transpose(0, 1), kept)


def take_sequences(sequences: Tensor, index: Tensor) -> Tensor:
    """[H, B, K, A] of sequences [H, B, N, A] those of the numbers [B, K]."""
    # take_along_dim would fix the batch's size in a program that is exported.
    return sequences.gather(2, index[None, :, :, None].expand(len(sequences), -1, -1, sequences.shape[-1]))


def _moved_on(distribution: SequenceDistribution, previous: Tensor, mean: Tensor, noise: Noise) -> Tensor:
    """[H, B, S, A] elites [B, S, H, A] of the plan before, moved by what was executed; what they lack is drawn."""
    moved = previous.permute(2, 0, 1, 3).roll(-distribution.options.execute, 0)
    moved[-distribution.options.execute :] = torch.nan
    drawn = distribution.sample(mean, distribution.init_std.expand_as(mean), moved.shape[2], noise)
    return torch.where(moved.isnan(), drawn, moved)


def policy_trajectories(model: WorldModel, latent: Latent, options: PlanOptions, noise: Noise) -> list[Tensor]:
    """[H, B, P, A] actions of the policy prior followed in imagination, in a list that is empty without any."""
    if not options.num_policy_trajectories or options.policy_prior is None:
        return []
    actions = [options.policy_prior(repeat_latent(latent, options.num_policy_trajectories), noise)]
    predict, state = model.predict_branches, latent
    for _ in range(options.horizon - 1):
        state = predict(state, actions[-1], noise).latent
        predict = model.predict_latent
        actions.append(options.policy_prior(state, noise))
    return [torch.stack(actions)]


def trajectory_value(model: WorldModel, latent: Latent, actions: Tensor, options: PlanOptions, noise: Noise) -> Tensor:
    """[B, N] discounted reward, and value at the end, of action sequences [H, B, N, A] from latents [B, …]."""
    before = repeat_latent(latent, actions.shape[2])
    discount = model.discount(before)
    predict, state = model.predict_branches, latent  # of the first step, where all samples stand at one latent
    total = actions.new_zeros(*actions.shape[1:3], 1)
    alive = torch.ones_like(total)
    factor: Tensor | float = 1.0
    for action in actions:
        arrived, reward, continuation = predict(state, action, noise)
        if options.reward is not None:
            reward = options.reward(before, arrived)
        if options.bonus is not None:
            reward = reward + options.bonus(before, action)
        predict, state, before = model.predict_latent, arrived, arrived
        total = total + factor * alive * reward
        factor = factor * discount
        alive = options.termination(alive, continuation)
    if options.terminal_value is not None:
        total = total + factor * alive * options.terminal_value(state, noise)
    return total.squeeze(-1)


def refit(
    distribution: SequenceDistribution, elites: Tensor, weight: Tensor, mean: Tensor, std: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [H, B, A] of elite sequences [H, B, K, A] of weights [B, K]; momentum keeps a share
    of the old ones."""
    options = distribution.options
    share = weight[None, :, :, None]
    total = share.sum(2) + 1e-9
    new_mean = (share * elites).sum(2) / total
    variance = (share * (elites - new_mean.unsqueeze(2)).square()).sum(2) / total
    if options.unbiased_std:
        variance = variance * (options.num_elites / (options.num_elites - 1))
    new_std = variance.sqrt().clamp(options.min_std, options.max_std)
    if distribution.has_fixed:
        new_std = new_std * (distribution.init_std > 0)
    for start, stop in distribution.space.groups:
        group = new_mean[..., start:stop]
        new_mean[..., start:stop] = (1 - options.floor) * group + options.floor / (stop - start)
    if not distribution.has_momentum:
        return new_mean, new_std
    pairs = ((new_mean, mean, distribution.momentum), (new_std, std, distribution.momentum_std))
    # Rewards of more digits than the plan's give it those.
    new_mean, new_std = (torch.lerp(new, old.to(new.dtype), momentum.to(new.dtype)) for new, old, momentum in pairs)
    return new_mean, new_std
