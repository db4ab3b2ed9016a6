"""Heads over features: a number as a distribution over bins, and a distribution over actions."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldloom_rl.functional.precision import PreciseBuffers, at_least_float32
from worldloom_rl.functional.symexp_two_hot import symexp_bins, symexp_two_hot_pair
from worldloom_rl.kernels.one_hot import one_hot
from worldloom_rl.kernels.sparse_cross_entropy import sparse_cross_entropy
from worldloom_rl.kernels.symexp_two_hot_mean import symexp_two_hot_mean
from worldloom_rl.nn.mlp import MLP, NormedLinear
from worldloom_rl.nn.rms_norm import RMSNormSilu
from worldloom_rl.noise import Noise
from worldloom_rl.specs.actions import ActionSpace


def silu_layers(inputs: int, units: int, layers: int) -> nn.Sequential:
    """Hidden layers of DreamerV3, with RMSNorm and SiLU."""
    widths = [inputs, *[units] * layers]
    return nn.Sequential(*(NormedLinear(i, o, None, norm=RMSNormSilu) for i, o in pairwise(widths)))


def silu_mlp(inputs: int, units: int, layers: int, outputs: int) -> MLP:
    """DreamerV3's perceptron: hidden layers with RMSNorm and SiLU, then a plain linear layer."""
    return MLP(inputs, [units] * layers, outputs, activation=None, norm=RMSNormSilu)


class TwoHotHead(PreciseBuffers):
    """Features [..., F] → logits [..., K] over bins that are evenly spaced in symlog space, far apart outside.

    Reference: Hafner et al. 2023 (arXiv:2301.04104), symexp two-hot; dreamerv3 outs.py, TwoHot.
    """

    bins: Tensor

    def __init__(self, inputs: int, units: int, layers: int, bins: int = 255) -> None:
        super().__init__()
        self.network = silu_mlp(inputs, units, layers, bins)
        self.register_buffer("bins", symexp_bins(bins), persistent=False)

    @property
    def output(self) -> nn.Linear:
        """The layer that gives the logits."""
        layer = self.network[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, features: Tensor) -> Tensor:
        return at_least_float32(self.network(features))

    def mean(self, logits: Tensor) -> Tensor:
        """[..., 1] the number that logits [..., K] stand for."""
        return symexp_two_hot_mean(logits, self.bins)

    def loss(self, logits: Tensor, target: Tensor, *others: tuple[float, Tensor]) -> Tensor:
        """[...] cross-entropy of logits [..., K] against numbers [..., 1], which get no gradient.

        Args:
            others: further targets [..., 1] with their weights, whose losses are added.
        """
        index, weight = symexp_two_hot_pair(target.detach(), self.bins)
        for share, other in others:
            indices, weights = symexp_two_hot_pair(other.detach(), self.bins)
            index, weight = torch.cat([index, indices], -1), torch.cat([weight, share * weights], -1)
        return sparse_cross_entropy(logits, index, weight)


class ActionDistribution(NamedTuple):
    """A distribution over flat actions [..., A]: normal where they are real, categorical in every one-hot group.

    A normal is not squashed: its draws may leave [-1, 1], and the environment's bounds cut them.
    """

    location: Tensor  # [..., A] the normals' means; normalised log-probabilities of one-hot dimensions
    std: Tensor  # [..., A]; 1 for one-hot dimensions
    space: ActionSpace

    def sample(self, noise: Noise) -> Tensor:
        """[..., A] a draw, without gradient."""
        return self._assemble(self._normal(noise), noise)

    @property
    def mode(self) -> Tensor:
        """[..., A] means and likeliest classes."""
        return self._assemble(self.location.detach(), None)

    def _normal(self, noise: Noise) -> Tensor:
        location = self.location.detach()
        if self.space.is_discrete:
            return location
        return location + self.std.detach() * noise.normal("policy", location.shape, location)

    def _assemble(self, real: Tensor, noise: Noise | None) -> Tensor:
        action = real
        for start, stop in self.space.groups:
            logits = self.location[..., start:stop].detach()
            drawn = logits.argmax(-1) if noise is None else noise.category("policy", logits.exp())
            chosen = one_hot(drawn, stop - start).to(real.dtype)
            action = torch.cat([action[..., :start], chosen, action[..., stop:]], -1)
        return action

    def log_probability(self, action: Tensor) -> Tensor:
        """[..., 1] log-density of flat actions [..., A], summed over dimensions and groups."""
        if self.space.is_discrete:
            return (action * self.location).sum(-1, keepdim=True)
        normal = -0.5 * ((action - self.location) / self.std).square() - self.std.log() - 0.5 * math.log(2 * math.pi)
        return torch.where(self.space.continuous, normal, action * self.location).sum(-1, keepdim=True)

    def entropy(self) -> Tensor:
        """[..., 1] in nats, summed over dimensions and groups."""
        if self.space.is_discrete:
            return -(self.location.exp() * self.location).sum(-1, keepdim=True)
        normal = self.std.log() + 0.5 * math.log(2 * math.pi * math.e)
        if self.space.is_continuous:
            return normal.sum(-1, keepdim=True)
        classes = -(self.location.exp() * self.location)
        return torch.where(self.space.continuous, normal, classes).sum(-1, keepdim=True)


class ActionHead(nn.Module):
    """One action key's outputs from the actor's last hidden layer."""

    def __init__(self, inputs: int, width: int, *, continuous: bool) -> None:
        super().__init__()
        self.mean = nn.Linear(inputs, width) if continuous else None
        self.stddev = nn.Linear(inputs, width) if continuous else None
        self.logits = None if continuous else nn.Linear(inputs, width)


class Actor(nn.Module):
    """Features [..., F] → `ActionDistribution` over any action space, one head an action key.

    Args:
        min_std, max_std: limits of the normals' standard deviation, approached smoothly.
    Reference: dreamerv3 agent.py, pol; heads.py, bounded_normal and categorical.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        layers: int,
        action_space: ActionSpace,
        *,
        min_std: float = 0.1,
        max_std: float = 1.0,
    ) -> None:
        super().__init__()
        # Its own: torch.func.functional_call leaves a module that stands under two names as it was called.
        self.action_space = copy.deepcopy(action_space)
        self.min_std, self.max_std = min_std, max_std
        self.trunk = silu_layers(inputs, units, layers)
        self.heads = nn.ModuleList(
            ActionHead(units, part.stop - part.start, continuous=not part.categories) for part in action_space.segments
        )

    def forward(self, features: Tensor) -> ActionDistribution:
        hidden = self.trunk(features)
        locations: list[Tensor] = []
        stds: list[Tensor] = []
        for part, head in zip(self.action_space.segments, self.heads, strict=True):
            assert isinstance(head, ActionHead)
            if head.mean is not None and head.stddev is not None:
                locations.append(torch.tanh(at_least_float32(head.mean(hidden))))
                share = torch.sigmoid(at_least_float32(head.stddev(hidden)) + 2.0)
                stds.append((self.max_std - self.min_std) * share + self.min_std)
            else:
                assert head.logits is not None
                groups = torch.split(at_least_float32(head.logits(hidden)), list(part.categories), -1)
                locations.append(torch.cat([logits.log_softmax(-1) for logits in groups], -1))
                stds.append(torch.ones_like(locations[-1]))
        if len(locations) == 1:
            return ActionDistribution(locations[0], stds[0], self.action_space)
        return ActionDistribution(torch.cat(locations, -1), torch.cat(stds, -1), self.action_space)
