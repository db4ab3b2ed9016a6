"""What sampling planners share: trajectories and their values, the warm start, and the TorchRL policy around a plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

import torch
import torch.nn.functional as F
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import TensorDictPrimer
from torchrl.envs.utils import ExplorationType, exploration_type

from worldloom_rl.keys import PLANNER_LEFT, PLANNER_MEAN, PLANNER_SEQUENCE
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import Latent, RewardFunction, WorldModel, repeat_latent

LatentFunction = Callable[[Latent, Noise], Tensor]
TerminationRule = Callable[[Tensor, Tensor], Tensor]
PerDimension = float | Sequence[float]  # one number, or one a dimension of the flat action


class SamplingOptions(TypedDict, total=False):
    """Options that every sampling planner takes beside its own arguments; `SamplingPlanner` says what they mean."""

    reward: RewardFunction | None
    execute: int
    warm_start: bool
    init_mean: PerDimension
    init_std: PerDimension | None
    low: PerDimension
    high: PerDimension
    clip: bool
    momentum: PerDimension
    momentum_std: PerDimension | None
    include_mean: bool
    keep_elites: int


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
        reward: of the latents before and after a step, in place of the predicted one; a `GoalReward` for example.
        execute: E, actions of a plan that are executed before the next plan; the environment carries the others.
        warm_start: start from the previous plan, moved by the actions executed; False starts every plan anew.
        init_mean, init_std: of a fresh start, by default 0 and `max_std`; a dimension of std 0 stays at its mean.
        low, high: bounds of sampled continuous dimensions, inside the action's own [-1, 1].
        clip: keep samples within the bounds; False lets the model see what the environment will cut.
        momentum, momentum_std: share of the previous mean and std kept when refitting; the second by default the first.
        include_mean: one sample is the mean itself.
        keep_elites: best sequences of an iteration that stand among the samples of the next one.

    `init_mean`, `init_std`, `low`, `high` and the momenta are one number or one a dimension of the flat action.
    """

    init_mean: Tensor
    init_std: Tensor
    low: Tensor
    high: Tensor
    momentum: Tensor
    momentum_std: Tensor

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
        reward: RewardFunction | None = None,
        execute: int = 1,
        warm_start: bool = True,
        init_mean: PerDimension = 0.0,
        init_std: PerDimension | None = None,
        low: PerDimension = -1.0,
        high: PerDimension = 1.0,
        clip: bool = True,
        momentum: PerDimension = 0.0,
        momentum_std: PerDimension | None = None,
        include_mean: bool = False,
        keep_elites: int = 0,
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
        if not 1 <= execute <= horizon:
            raise ValueError(f"A plan of {horizon} actions (horizon) cannot give {execute} (execute).")
        if not 0 <= keep_elites <= num_elites:
            raise ValueError(f"keep_elites {keep_elites} must be between 0 and num_elites {num_elites}.")
        if (keep_elites or include_mean) and num_policy_trajectories + keep_elites >= num_samples:
            raise ValueError(
                f"Of {num_samples} samples, {num_policy_trajectories} policy trajectories and {keep_elites} kept "
                "elites leave none to be drawn; raise num_samples."
            )
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
        self.reward = reward
        self.execute = execute
        self.use_warm_start = warm_start
        self.clip = clip
        self.include_mean = include_mean
        self.keep_elites = keep_elites
        settings: dict[str, tuple[PerDimension, float, float]] = {
            "init_mean": (init_mean, -1.0, 1.0),
            "init_std": (max_std if init_std is None else init_std, 0.0, max_std),
            "low": (low, -1.0, 1.0),
            "high": (high, -1.0, 1.0),
            "momentum": (momentum, 0.0, 1.0),
            "momentum_std": (momentum if momentum_std is None else momentum_std, 0.0, 1.0),
        }
        for name, (given, least, most) in settings.items():
            row = _per_dimension(name, given, least, most, model.action_space.width)
            self.register_buffer(name, row.to(model.action_space.center.device), persistent=False)
        if bool((self.momentum == 1).any() or (self.momentum_std == 1).any()):
            raise ValueError(f"momentum must be in [0, 1), got {momentum}; at 1 nothing is learned from the elites.")
        if not bool((self.low <= self.high).all()):
            raise ValueError(f"low must not exceed high, got {low} and {high}.")
        self.init_mean.mul_(model.action_space.continuous)  # categoricals start uniform
        self._has_momentum = bool((self.momentum > 0).any() or (self.momentum_std > 0).any())
        self._has_fixed = bool((self.init_std == 0).any())
        carried = self._carried_keys()
        self.in_keys: list[NestedKey] = [*model.latent_keys, model.key_map.is_init, *carried]
        self.out_keys: list[NestedKey] = [*model.action_keys, *carried, *(("next", *key) for key in carried)]

    # ------------------------------------------------------------------ the policy

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that gives an environment a place for the warm start, and for what is left of a plan."""
        width = self.model.action_space.width
        leaves = Composite({PLANNER_MEAN: Unbounded((self.horizon, width))})
        if self.execute > 1:
            leaves[PLANNER_SEQUENCE] = Unbounded((self.execute, width))
            leaves[PLANNER_LEFT] = Unbounded((1,), dtype=torch.int64)
        return TensorDictPrimer(leaves, default_value=0, expand_specs=True)

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        model, batch = self.model, tensordict.batch_size
        latent = model.read_latent(tensordict)
        self._follow(next(iter(latent.values())))
        flat = {name: value.reshape(batch.numel(), *value.shape[len(batch) :]) for name, value in latent.items()}
        shape = (batch.numel(), self.horizon, model.action_space.width)
        is_init = tensordict.get(model.key_map.is_init, None)
        carried = [tensordict.get(key, None) for key in self._carried_keys()]
        if is_init is None or any(value is None for value in carried):
            raise KeyError(
                f"Planning needs {self._carried_keys()} and {model.key_map.is_init!r} in the tensordict, which holds "
                f"{sorted(map(str, tensordict.keys(True, True)))}. Collect with auto_register_policy_transforms=True, "
                "or append InitTracker() and planner.make_tensordict_primer() to the environment."
            )
        previous, *_ = carried
        if previous.shape != (*batch, *shape[1:]):
            raise ValueError(
                f"The warm start {PLANNER_MEAN} has shape {tuple(previous.shape)}, but this planner needs "
                f"{(*batch, *shape[1:])}; build the environment's primer with planner.make_tensordict_primer()."
            )
        previous = previous.reshape(shape)
        kept = torch.where(is_init.reshape(-1, 1, 1), self.init_mean.expand(shape), previous)
        explore = exploration_type() is ExplorationType.RANDOM
        if self.execute == 1:
            plan = self.plan(flat, kept, self.noise or model.noise, explore=explore)
            action, new = plan.action, [plan.mean]
        else:
            sequence = carried[1].reshape(shape[0], self.execute, shape[-1])
            left = torch.where(is_init, 0, carried[2]).reshape(-1)
            action, new = self._go_on(flat, kept, sequence, left, explore)
        model.write_action(tensordict, action.reshape(*batch, shape[-1]))
        for key, value in zip(self._carried_keys(), new, strict=True):
            shaped = value.reshape(*batch, *value.shape[1:])
            tensordict.set(key, shaped).set(("next", *key), shaped)
        return tensordict

    def _follow(self, like: Tensor) -> None:
        """To the tensor's device, where the model alone was moved."""
        if self.low.device != like.device:
            self.to(like.device)

    def _carried_keys(self) -> list[tuple[str, str]]:
        return [PLANNER_MEAN] if self.execute == 1 else [PLANNER_MEAN, PLANNER_SEQUENCE, PLANNER_LEFT]

    def _go_on(
        self, latent: Latent, mean: Tensor, sequence: Tensor, left: Tensor, explore: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """[B, A] the next action of each plan and what is carried; a plan that is used up is made anew.

        Args:
            mean: [B, H, A]; sequence: [B, E, A]; left: [B] actions of it that are still to be executed.
        """
        due = (left == 0).nonzero().squeeze(-1)
        if len(due):
            start = {name: value.index_select(0, due) for name, value in latent.items()}
            plan = self.plan(start, mean.index_select(0, due), self.noise or self.model.noise, explore=explore)
            mean = mean.index_copy(0, due, plan.mean)
            sequence = sequence.index_copy(0, due, plan.sequence)
            left = left.index_fill(0, due, self.execute)
        place = (self.execute - left).reshape(-1, 1, 1)
        action = sequence.take_along_dim(place, 1).squeeze(1)
        return action, [mean, sequence, (left - 1).unsqueeze(-1)]

    # ------------------------------------------------------------------ the plan

    def plan(self, latent: Latent, previous_mean: Tensor, noise: Noise, *, explore: bool) -> Plan:
        """Plan for B environments at once.

        Args:
            latent: leaves [B, …].
            previous_mean: [B, H, A] warm start, `init_mean` (zeros unless given) for none.
            explore: add action noise to the actions that will be executed.
        Draws, in order: the policy trajectories step by step, then per iteration the samples, the last latent's action
        and what the terminal value draws, then the choice among the elites and the exploration noise.
        """
        self._follow(previous_mean)
        mask = self.model.action_mask(latent)
        mask = None if mask is None else mask.unsqueeze(-2)  # [B, 1, A]
        prior_actions = self._policy_trajectories(latent, noise)
        mean = self.warm_start(previous_mean)
        std = self.init_std.expand_as(mean)
        iterations: list[Iteration] = []
        beside = [] if prior_actions is None else [prior_actions]
        for _ in range(self.num_iterations):
            actions = self._sample(mean, std, noise, self.num_samples - sum(part.shape[2] for part in beside))
            actions = torch.cat([*beside, actions], 2)
            if mask is not None:
                actions = actions * mask
            value = self.trajectory_value(latent, actions, noise).nan_to_num(0.0)
            elite_value, elite_index = value.topk(self.num_elites, -1)
            elites = actions.take_along_dim(elite_index[None, :, :, None], 2)
            score = self._score(elite_value)
            mean, std = self._momentum(self._refit(elites, score), (mean, std))
            if self.keep_elites:
                beside = [*([] if prior_actions is None else [prior_actions]), elites[:, :, : self.keep_elites]]
            if mask is not None:
                mean, std = mean * mask.squeeze(-2), std * mask.squeeze(-2)
            iterations.append(Iteration(actions, value, elite_index, score, mean, std))
        chosen = self._choose(mean, elites, score, noise)[: self.execute]
        if explore:
            steps = zip(chosen, mean, std, strict=False)
            chosen = torch.stack([self._explore(*step, noise) for step in steps])
        return Plan(chosen[0], mean.transpose(0, 1), iterations, chosen.transpose(0, 1))

    def trajectory_value(self, latent: Latent, actions: Tensor, noise: Noise) -> Tensor:
        """[B, N] discounted reward, and value at the end, of action sequences [H, B, N, A] from latents [B, …]."""
        before = repeat_latent(latent, actions.shape[2])
        discount = self.model.discount(before)
        predict, state = self.model.predict_branches, latent  # of the first step, where all samples stand at one latent
        total = actions.new_zeros(*actions.shape[1:3], 1)
        alive = torch.ones_like(total)
        factor: Tensor | float = 1.0
        for action in actions:
            arrived, reward, continuation = predict(state, action, noise)
            if self.reward is not None:
                reward = self.reward(before, arrived)
            predict, state, before = self.model.predict_latent, arrived, arrived
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
        """[H, B, A] the actions to execute, from the mean [H, B, A] and the elite sequences [H, B, K, A]."""

    def _refit(self, elites: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [H, B, A] of elite sequences [H, B, K, A]."""
        weight = score[None, :, :, None]
        total = weight.sum(2) + 1e-9
        mean = (weight * elites).sum(2) / total
        variance = (weight * (elites - mean.unsqueeze(2)).square()).sum(2) / total
        std = self._deviation(variance).clamp(self.min_std, self.max_std)
        if self._has_fixed:
            std = std * (self.init_std > 0)
        for start, stop in self.model.action_space.groups:
            mean[..., start:stop] = (1 - self.floor) * mean[..., start:stop] + self.floor / (stop - start)
        return mean, std

    def _deviation(self, variance: Tensor) -> Tensor:
        """The standard deviation from the elites' mean squared deviation."""
        return variance.sqrt()

    def _momentum(self, new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if not self._has_momentum:
            return new
        return torch.lerp(new[0], old[0], self.momentum), torch.lerp(new[1], old[1], self.momentum_std)

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
        """[H, B, A] the previous mean, moved by what was executed; its last rows, and rows without one, are fresh."""
        mean = self.init_mean.expand(previous_mean.shape).transpose(0, 1).contiguous()
        if self.use_warm_start:
            mean[: self.horizon - self.execute] = previous_mean.transpose(0, 1)[self.execute :]
        for start, stop in self.model.action_space.groups:
            mass = mean[..., start:stop]
            fresh = mass.sum(-1, keepdim=True) < 0.5
            mean[..., start:stop] = torch.where(fresh, torch.full_like(mass, 1.0 / (stop - start)), mass)
        return mean

    def _sample(self, mean: Tensor, std: Tensor, noise: Noise, count: int) -> Tensor:
        """[H, B, count, A] fresh sequences."""
        horizon, batch, width = mean.shape
        space = self.model.action_space
        shape = (horizon, batch, count, width)
        if space.is_discrete:
            actions = mean.new_zeros(shape)
        else:
            epsilon = noise.normal("sample", shape, mean)
            actions = mean.unsqueeze(2) + std.unsqueeze(2) * epsilon
            if self.clip:
                actions = actions.clamp(self.low, self.high)
        for start, stop in space.groups:
            probabilities = mean[..., start:stop].unsqueeze(2).expand(*shape[:-1], stop - start)
            actions[..., start:stop] = F.one_hot(noise.category("sample", probabilities), stop - start).to(mean.dtype)
        if self.include_mean:
            actions[:, :, 0] = self._likeliest(mean)
        return actions

    def _likeliest(self, mean: Tensor) -> Tensor:
        """[..., A] the mean, of categoricals the likeliest class."""
        action = mean
        for start, stop in self.model.action_space.groups:
            best = F.one_hot(mean[..., start:stop].argmax(-1), stop - start).to(mean.dtype)
            action = torch.cat([action[..., :start], best, action[..., stop:]], -1)
        return action

    def _explore(self, action: Tensor, mean: Tensor, std: Tensor, noise: Noise) -> Tensor:
        """[B, A] the action with Gaussian noise; one-hot groups are drawn anew from the refitted probabilities."""
        space = self.model.action_space
        if not space.is_discrete:
            noisy = (action + std * noise.normal("explore", action.shape, action)).clamp(self.low, self.high)
            action = torch.where(space.continuous, noisy, action)
        for start, stop in space.groups:
            drawn = F.one_hot(noise.category("explore", mean[..., start:stop]), stop - start)
            action = torch.cat([action[..., :start], drawn.to(action.dtype), action[..., stop:]], -1)
        return action


def _per_dimension(name: str, given: PerDimension, least: float, most: float, width: int) -> Tensor:
    """[A] the number, or the numbers, for every dimension. Raises ValueError for another count or range."""
    numbers = [float(number) for number in given] if isinstance(given, Sequence) else [float(given)] * width
    if len(numbers) != width:
        raise ValueError(f"{name} must be one number or {width}, one a flat action dimension; got {len(numbers)}.")
    if not all(least <= number <= most for number in numbers):
        raise ValueError(f"{name} must be in [{least}, {most}], got {given}.")
    return torch.tensor(numbers)
