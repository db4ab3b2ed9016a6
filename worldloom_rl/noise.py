"""Randomness as an argument: every random draw of the tensor core goes through a `Noise` source.

A draw has a name and a shape. Their order is part of the contract: per time step, then per sample. Golden tests,
batched-equals-single planning and exact resume replay the same draws instead of patching a global sampler.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Noise(ABC):
    """Where random numbers come from. `like` gives the device, and the dtype of real-valued draws."""

    @abstractmethod
    def normal(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal draws of the given shape."""

    @abstractmethod
    def uniform(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draws from [0, 1) of the given shape."""

    @abstractmethod
    def exponential(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Exp(1) draws of the given shape; −log of them is Gumbel noise."""

    @abstractmethod
    def integers(self, name: str, high: int, shape: Sequence[int], like: Tensor) -> Tensor:
        """int64 draws from {0, …, high − 1} of the given shape."""

    @abstractmethod
    def permutation(self, name: str, count: int, like: Tensor) -> Tensor:
        """[count] int64, a permutation of 0, …, count − 1."""

    @abstractmethod
    def keep(self, name: str, shape: Sequence[int], rate: float, like: Tensor) -> Tensor:
        """1 with probability 1 − rate, else 0: a dropout mask, not yet divided by 1 − rate."""

    def category(self, name: str, probabilities: Tensor) -> Tensor:
        """int64 [...] classes drawn from probabilities [..., K], by one uniform draw each."""
        return sample_index(probabilities, self.uniform(name, probabilities.shape[:-1], probabilities))


def sample_index(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """int64 [...] class whose interval of the cumulative probabilities [..., K] holds `uniform` [...] in [0, 1)."""
    cumulative = probabilities.detach().cumsum(-1)
    below = uniform.unsqueeze(-1) * cumulative[..., -1:] >= cumulative[..., :-1]
    return below.sum(-1)


class GeneratorNoise(Noise):
    """Draws from a torch generator, by default torch's global one of the tensor's device."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def normal(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator, dtype=like.dtype, device=like.device)

    def uniform(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return torch.rand(tuple(shape), generator=self.generator, dtype=like.dtype, device=like.device)

    def exponential(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return like.new_empty(tuple(shape)).exponential_(generator=self.generator)

    def integers(self, name: str, high: int, shape: Sequence[int], like: Tensor) -> Tensor:
        return torch.randint(high, tuple(shape), generator=self.generator, device=like.device)

    def permutation(self, name: str, count: int, like: Tensor) -> Tensor:
        return torch.randperm(count, generator=self.generator, device=like.device)

    def keep(self, name: str, shape: Sequence[int], rate: float, like: Tensor) -> Tensor:
        return like.new_empty(tuple(shape)).bernoulli_(1.0 - rate, generator=self.generator)


class ModeNoise(Noise):
    """The most central value of every distribution: zero, one half, the middle integer, the identity, all kept, and
    of several classes the likeliest."""

    def normal(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return like.new_zeros(tuple(shape))

    def uniform(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return like.new_full(tuple(shape), 0.5)

    def exponential(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return like.new_ones(tuple(shape))

    def integers(self, name: str, high: int, shape: Sequence[int], like: Tensor) -> Tensor:
        return torch.full(tuple(shape), high // 2, device=like.device)

    def permutation(self, name: str, count: int, like: Tensor) -> Tensor:
        return torch.arange(count, device=like.device)

    def keep(self, name: str, shape: Sequence[int], rate: float, like: Tensor) -> Tensor:
        return like.new_ones(tuple(shape))

    def category(self, name: str, probabilities: Tensor) -> Tensor:
        return probabilities.argmax(-1)


class ReplayNoise(Noise):
    """Replays given draws: for each name a queue of tensors, handed out in order, its shape checked."""

    def __init__(self, draws: Mapping[str, Sequence[Tensor]]) -> None:
        self._queues = {name: list(queue) for name, queue in draws.items()}

    def _next(self, name: str, shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
        queue = self._queues.get(name)
        if not queue:
            left = {key: len(values) for key, values in self._queues.items()}
            raise KeyError(f"No draw {name!r} of shape {tuple(shape)} is left to replay; left are {left}.")
        draw = queue.pop(0)
        if tuple(draw.shape) != tuple(shape):
            raise ValueError(f"Draw {name!r} has shape {tuple(draw.shape)}, but shape {tuple(shape)} was asked for.")
        return draw.to(device=like.device, dtype=dtype)

    def normal(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._next(name, shape, like, like.dtype)

    uniform = normal
    exponential = normal

    def integers(self, name: str, high: int, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._next(name, shape, like, torch.int64)

    def permutation(self, name: str, count: int, like: Tensor) -> Tensor:
        return self._next(name, (count,), like, torch.int64)

    def keep(self, name: str, shape: Sequence[int], rate: float, like: Tensor) -> Tensor:
        return self._next(name, shape, like, like.dtype)

    def unused(self) -> dict[str, int]:
        """How many draws of each name were never asked for; empty when all were."""
        return {name: len(queue) for name, queue in self._queues.items() if queue}
