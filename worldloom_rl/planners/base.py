"""What sampling planners share: trajectories and their values, the warm start, and the TorchRL policy around a plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import TensorDictPrimer
from torchrl.envs.utils import ExplorationType, exploration_type

from worldloom_rl.keys import PLANNER_MEAN
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import Latent, WorldModel, repeat_latent

LatentFunction = Callable[[Latent, Noise], Tensor]
TerminationRule = Callable[[Tensor, Tensor], Tensor]


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


class SamplingPlanner(TensorDictModuleBase, ABC):  # type: ignore[misc]
    """Plans by sampling action sequences in imagination and refitting their distribution to the best ones.

    As a policy it reads the latent, "is_init" and the warm start ("planner", "mean"), and writes the action and the
    warm start, which the environment carries: `make_tensordict_primer` gives the transform, and
    `Collector(env, policy, auto_register_policy_transforms=True)` adds it by itself. The warm start is forgotten, per
    environment, where "is_init" is set. ExplorationType.RANDOM explores; every other type plans without action noise.

    Discrete actions (extension): categorical distributions whose probabilities are refitted with a floor.

    Args:
        model: any world model.
        horizon: H, steps of a sequence.
        iterations: rounds of sampling and refitting.
        num_samples: N, sequences evaluated a round.
        num_elites: K, best sequences to which the distribution is refitted.
        num_policy_trajectories: of the N sequences, how many are rollouts of `policy_prior`.
        min_std, max_std: bounds of the standard deviation in flat action units, where the range is [-1, 1].
        floor: share of uniform mass in refitted categoricals.
        policy_prior: (latent, noise) → flat actions [..., A].
        terminal_value: (latent, noise) → [..., 1], value of what follows the horizon.
        termination: how predicted continuation weighs later steps.
        noise: source of random draws; by default the model's.
    """

    def __init__(
        self,
        model: WorldModel,
        *,
        horizon: int,
        iterations: int,
        num_samples: int,
        num_elites: int,
        num_policy_trajectories: int,
        min_std: float,
        max_std: float,
        floor: float,
        policy_prior: LatentFunction | None,
        terminal_value: LatentFunction | None,
        termination: TerminationRule,
        noise: Noise | None,
    ) -> None:
        super().__init__()
        for name, number in (("horizon", horizon), ("iterations", iterations), ("num_samples", num_samples)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}.")
        if not 1 <= num_elites <= num_samples:
            raise ValueError(f"num_elites {num_elites} must be between 1 and num_samples {num_samples}.")
        if not 0 <= num_policy_trajectories <= num_samples:
            raise ValueError(
                f"num_policy_trajectories {num_policy_trajectories} must be between 0 and num_samples {num_samples}."
            )
        if num_policy_trajectories and policy_prior is None:
            raise ValueError("num_policy_trajectories needs a policy_prior; give one, or set it to 0.")
        if not 0.0 <= min_std <= max_std:
            raise ValueError(f"The standard deviation needs 0 <= min_std <= max_std, got {min_std} and {max_std}.")
        if not 0.0 <= floor <= 1.0:
            raise ValueError(f"floor is a share of probability mass in [0, 1], got {floor}.")
        self.model = model
        self.horizon = horizon
        self.num_iterations = iterations
        self.num_samples = num_samples
        self.num_elites = num_elites
        self.num_policy_trajectories = num_policy_trajectories
        self.min_std = min_std
        self.max_std = max_std
        self.floor = floor
        self.policy_prior = policy_prior
        self.terminal_value = terminal_value
        self.termination = termination
        self.noise = noise
        self.in_keys: list[NestedKey] = [*model.latent_keys, model.key_map.is_init, PLANNER_MEAN]
        self.out_keys: list[NestedKey] = [*model.action_keys, PLANNER_MEAN, ("next", *PLANNER_MEAN)]

    # ------------------------------------------------------------------ the policy

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that gives an environment a place for the warm start."""
        leaf = Unbounded((self.horizon, self.model.action_space.width))
        return TensorDictPrimer(Composite(planner=Composite(mean=leaf)), default_value=0.0, expand_specs=True)

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        model, batch = self.model, tensordict.batch_size
        latent = model.read_latent(tensordict)
        flat = {name: value.reshape(batch.numel(), *value.shape[len(batch) :]) for name, value in latent.items()}
        shape = (batch.numel(), self.horizon, model.action_space.width)
        previous = tensordict.get(PLANNER_MEAN, None)
        is_init = tensordict.get(model.key_map.is_init, None)
        if previous is None or is_init is None:
            raise KeyError(
                f"Planning needs {PLANNER_MEAN} and {model.key_map.is_init!r} in the tensordict, which holds "
                f"{sorted(map(str, tensordict.keys(True, True)))}. Collect with auto_register_policy_transforms=True, "
                "or append InitTracker() and planner.make_tensordict_primer() to the environment."
            )
        if previous.shape != (*batch, *shape[1:]):
            raise ValueError(
                f"The warm start {PLANNER_MEAN} has shape {tuple(previous.shape)}, but this planner needs "
                f"{(*batch, *shape[1:])}; build the environment's primer with planner.make_tensordict_primer()."
            )
        previous = previous.reshape(shape)
        kept = torch.where(is_init.reshape(-1, 1, 1), torch.zeros_like(previous), previous)
        explore = exploration_type() is ExplorationType.RANDOM
        plan = self.plan(flat, kept, self.noise or model.noise, explore=explore)
        mean = plan.mean.reshape(*batch, *shape[1:])
        model.write_action(tensordict, plan.action.reshape(*batch, shape[-1]))
        return tensordict.set(PLANNER_MEAN, mean).set(("next", *PLANNER_MEAN), mean)

    # ------------------------------------------------------------------ the plan

    def plan(self, latent: Latent, previous_mean: Tensor, noise: Noise, *, explore: bool) -> Plan:
        """Plan for B environments at once.

        Args:
            latent: leaves [B, …].
            previous_mean: [B, H, A] warm start, zeros for none.
            explore: add action noise to the chosen sequence's first action.
        Draws, in order: the policy trajectories step by step, then per iteration the samples, the last latent's action
        and what the terminal value draws, then the choice among the elites and the exploration noise.
        """
        mask = self.model.action_mask(latent)
        mask = None if mask is None else mask.unsqueeze(-2)  # [B, 1, A]
        prior_actions = self._policy_trajectories(latent, noise)
        mean = self.warm_start(previous_mean)
        std = torch.full_like(mean, self.max_std)
        iterations: list[Iteration] = []
        for _ in range(self.num_iterations):
            actions = self._sample(mean, std, noise)
            if prior_actions is not None:
                actions = torch.cat([prior_actions, actions], 2)
            if mask is not None:
                actions = actions * mask
            value = self.trajectory_value(latent, actions, noise).nan_to_num(0.0)
            elite_value, elite_index = value.topk(self.num_elites, -1)
            elites = actions.take_along_dim(elite_index[None, :, :, None], 2)
            score = self._score(elite_value)
            mean, std = self._refit(elites, score, mean, std)
            if mask is not None:
                mean, std = mean * mask.squeeze(-2), std * mask.squeeze(-2)
            iterations.append(Iteration(actions, value, elite_index, score, mean, std))
        action = self._choose(mean[0], elites[0], score, noise)
        if explore:
            action = self._explore(action, mean[0], std[0], noise)
        return Plan(action, mean.transpose(0, 1), iterations)

    def trajectory_value(self, latent: Latent, actions: Tensor, noise: Noise) -> Tensor:
        """[B, N] discounted reward, and value at the end, of action sequences [H, B, N, A] from latents [B, …]."""
        discount = self.model.discount(repeat_latent(latent, actions.shape[2]))
        predict, state = self.model.predict_branches, latent  # of the first step, where all samples stand at one latent
        total = actions.new_zeros(*actions.shape[1:3], 1)
        alive = torch.ones_like(total)
        factor: Tensor | float = 1.0
        for action in actions:
            state, reward, continuation = predict(state, action, noise)
            predict = self.model.predict_latent
            total = total + factor * alive * reward
            factor = factor * discount
            alive = self.termination(alive, continuation)
        if self.terminal_value is not None:
            total = total + factor * alive * self.terminal_value(state, noise)
        return total.squeeze(-1)

    @abstractmethod
    def _score(self, elite_value: Tensor) -> Tensor:
        """[B, K] weights of the elites, summing to 1, from their values, best first."""

    @abstractmethod
    def _choose(self, mean: Tensor, elites: Tensor, score: Tensor, noise: Noise) -> Tensor:
        """[B, A] the action to execute, from the first step's mean [B, A] and elite actions [B, K, A]."""

    def _refit(self, elites: Tensor, score: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """New mean and standard deviation [H, B, A] from elite sequences [H, B, K, A] and the previous ones."""
        weight = score[None, :, :, None]
        total = weight.sum(2) + 1e-9
        mean = (weight * elites).sum(2) / total
        std = ((weight * (elites - mean.unsqueeze(2)).square()).sum(2) / total).sqrt().clamp(self.min_std, self.max_std)
        for start, stop in self.model.action_space.groups:
            mean[..., start:stop] = (1 - self.floor) * mean[..., start:stop] + self.floor / (stop - start)
        return mean, std

    def _policy_trajectories(self, latent: Latent, noise: Noise) -> Tensor | None:
        """[H, B, P, A] actions of the policy prior followed in imagination."""
        if not self.num_policy_trajectories or self.policy_prior is None:
            return None
        actions = [self.policy_prior(repeat_latent(latent, self.num_policy_trajectories), noise)]
        predict, state = self.model.predict_branches, latent
        for _ in range(self.horizon - 1):
            state = predict(state, actions[-1], noise).latent
            predict = self.model.predict_latent
            actions.append(self.policy_prior(state, noise))
        return torch.stack(actions)

    def warm_start(self, previous_mean: Tensor) -> Tensor:
        """[H, B, A] the previous mean moved one step ahead; its last row, and rows without one, start fresh."""
        mean = torch.zeros_like(previous_mean).transpose(0, 1).contiguous()
        mean[:-1] = previous_mean.transpose(0, 1)[1:]
        for start, stop in self.model.action_space.groups:
            mass = mean[..., start:stop]
            fresh = mass.sum(-1, keepdim=True) < 0.5
            mean[..., start:stop] = torch.where(fresh, torch.full_like(mass, 1.0 / (stop - start)), mass)
        return mean

    def _sample(self, mean: Tensor, std: Tensor, noise: Noise) -> Tensor:
        """[H, B, N − P, A] fresh sequences."""
        horizon, batch, width = mean.shape
        space = self.model.action_space
        shape = (horizon, batch, self.num_samples - self.num_policy_trajectories, width)
        if space.is_discrete:
            actions = mean.new_zeros(shape)
        else:
            epsilon = noise.normal("sample", shape, mean)
            actions = (mean.unsqueeze(2) + std.unsqueeze(2) * epsilon).clamp(-1, 1)
        for start, stop in space.groups:
            probabilities = mean[..., start:stop].unsqueeze(2).expand(*shape[:-1], stop - start)
            actions[..., start:stop] = F.one_hot(noise.category("sample", probabilities), stop - start).to(mean.dtype)
        return actions

    def _explore(self, action: Tensor, mean: Tensor, std: Tensor, noise: Noise) -> Tensor:
        """[B, A] the action with Gaussian noise; one-hot groups are drawn anew from the refitted probabilities."""
        space = self.model.action_space
        if not space.is_discrete:
            noisy = (action + std * noise.normal("explore", action.shape, action)).clamp(-1, 1)
            action = torch.where(space.continuous, noisy, action)
        for start, stop in space.groups:
            drawn = F.one_hot(noise.category("explore", mean[..., start:stop]), stop - start)
            action = torch.cat([action[..., :start], drawn.to(action.dtype), action[..., stop:]], -1)
        return action
