"""The distribution of action sequences: Gaussian in real dimensions, categorical in one-hot groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldloom_rl.kernels.one_hot import one_hot
from worldloom_rl.noise import Noise
from worldloom_rl.planners.options import PerDimension, PlanOptions
from worldloom_rl.specs.actions import ActionSpace


class SequenceDistribution(nn.Module):
    """Where plans start, how sequences are drawn and how actions explore: the options where they meet the actions.

    A distribution is a mean [H, B, A], of categoricals the probabilities, and a standard deviation of the same shape.

    Attributes:
        init_mean, init_std, low, high, momentum, momentum_std: [A] the options' numbers, one a flat action dimension.
    Raises ValueError for numbers that do not fit the actions.
    """

    init_mean: Tensor
    init_std: Tensor
    low: Tensor
    high: Tensor
    momentum: Tensor
    momentum_std: Tensor

    def __init__(self, options: PlanOptions, space: ActionSpace) -> None:
        super().__init__()
        self.options = options
        self.space = space
        momentum, max_std = options.momentum, options.max_std
        for name, given, least, most in (
            ("init_mean", options.init_mean, -1.0, 1.0),
            ("init_std", max_std if options.init_std is None else options.init_std, 0.0, max_std),
            ("low", options.low, -1.0, 1.0),
            ("high", options.high, -1.0, 1.0),
            ("momentum", momentum, 0.0, 1.0),
            ("momentum_std", momentum if options.momentum_std is None else options.momentum_std, 0.0, 1.0),
        ):
            row = _per_dimension(name, given, least, most, space.width).to(space.center.device)
            self.register_buffer(name, row, persistent=False)
        if bool((self.momentum == 1).any() or (self.momentum_std == 1).any()):
            raise ValueError(f"momentum must be in [0, 1), got {momentum}; at 1 nothing is learned from the elites.")
        if not bool((self.low <= self.high).all()):
            raise ValueError(f"low must not exceed high, got {options.low} and {options.high}.")
        self.init_mean.mul_(space.continuous)  # categoricals start uniform
        # Asked here once: a plan must not wait for the device.
        self.has_momentum = bool((self.momentum > 0).any() or (self.momentum_std > 0).any())
        self.has_fixed = bool((self.init_std == 0).any())

    def warm_start(self, previous_mean: Tensor) -> Tensor:
        """[H, B, A] the previous mean [B, H, A], moved by what was executed; what has none is fresh."""
        options = self.options
        mean = self.init_mean.expand(previous_mean.shape).transpose(0, 1).contiguous()
        if options.warm_start:
            mean[: options.horizon - options.execute] = previous_mean.transpose(0, 1)[options.execute :]
        for start, stop in self.space.groups:
            mass = mean[..., start:stop]
            fresh = mass.sum(-1, keepdim=True) < 0.5
            mean[..., start:stop] = torch.where(fresh, torch.full_like(mass, 1.0 / (stop - start)), mass)
        return mean

    def sample(self, mean: Tensor, std: Tensor, count: int, noise: Noise) -> Tensor:
        """[H, B, count, A] fresh sequences."""
        horizon, batch, width = mean.shape
        shape = (horizon, batch, count, width)
        if self.space.is_discrete:
            actions = mean.new_zeros(shape)
        else:
            epsilon = self.options.draws(shape, mean, noise)
            actions = mean.unsqueeze(2) + std.unsqueeze(2) * epsilon
            if self.options.clip:
                actions = actions.clamp(self.low, self.high)
        for start, stop in self.space.groups:
            probabilities = mean[..., start:stop].unsqueeze(2).expand(*shape[:-1], stop - start)
            actions[..., start:stop] = one_hot(noise.category("sample", probabilities), stop - start).to(mean.dtype)
        if self.options.include_mean:
            actions[:, :, 0] = likeliest(self.space, mean)
        return actions

    def explore(self, actions: Tensor, mean: Tensor, std: Tensor, noise: Noise) -> Tensor:
        """[E, B, A] the first E actions with Gaussian noise; one-hot groups are drawn anew from the probabilities."""
        steps = zip(actions, mean, std, strict=False)
        return torch.stack([self._explore_step(*step, noise) for step in steps])

    def _explore_step(self, action: Tensor, mean: Tensor, std: Tensor, noise: Noise) -> Tensor:
        if not self.space.is_discrete:
            noisy = (action + std * noise.normal("explore", action.shape, action)).clamp(self.low, self.high)
            action = torch.where(self.space.continuous, noisy, action)
        for start, stop in self.space.groups:
            drawn = one_hot(noise.category("explore", mean[..., start:stop]), stop - start)
            action = torch.cat([action[..., :start], drawn.to(action.dtype), action[..., stop:]], -1)
        return action


def likeliest(space: ActionSpace, mean: Tensor) -> Tensor:
    """[..., A] the mean, of categoricals the likeliest class."""
    action = mean
    for start, stop in space.groups:
        best = one_hot(mean[..., start:stop].argmax(-1), stop - start).to(mean.dtype)
        action = torch.cat([action[..., :start], best, action[..., stop:]], -1)
    return action


def _per_dimension(name: str, given: PerDimension, least: float, most: float, width: int) -> Tensor:
    """[A] the number, or the numbers, for every dimension. Raises ValueError for another count or range."""
    numbers = [float(number) for number in given] if isinstance(given, Sequence) else [float(given)] * width
    if len(numbers) != width:
        raise ValueError(f"{name} must be one number or {width}, one a flat action dimension; got {len(numbers)}.")
    if not all(least <= number <= most for number in numbers):
        raise ValueError(f"{name} must be in [{least}, {most}], got {given}.")
    return torch.tensor(numbers)
