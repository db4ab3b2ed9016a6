"""Diagonal Gaussian latents (DreamerV1, PlaNet)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchrl.data import TensorSpec, Unbounded

from worldloom_rl.functional.divergences import gaussian_kl
from worldloom_rl.latents.space import LatentSpace
from worldloom_rl.noise import Noise


class GaussianLatent(LatentSpace):
    """[S] real numbers, reparameterised: mean + std · ε.

    Args:
        width: S; parameters are [..., 2 S], the mean and the raw standard deviation.
        min_std: added to softplus(raw), so that the standard deviation stays above it.
    Reference: Hafner et al. 2020 (arXiv:1912.01603), recurrent state-space model.
    """

    def __init__(self, width: int, *, min_std: float = 0.1) -> None:
        if min_std <= 0:
            raise ValueError(f"min_std must be positive, got {min_std}.")
        self.min_std = min_std
        self.parameters_width = 2 * width
        self.features_width = width

    @property
    def shape(self) -> torch.Size:
        return torch.Size([self.features_width])

    def spec(self, batch: Sequence[int] = ()) -> TensorSpec:
        return Unbounded(shape=(*batch, *self.shape), dtype=torch.float32)

    def mean_and_std(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each [..., S]."""
        self._check(parameters)
        mean, raw = parameters.chunk(2, -1)
        return mean, F.softplus(raw) + self.min_std

    def sample(self, parameters: Tensor, noise: Noise) -> Tensor:
        mean, std = self.mean_and_std(parameters)
        return mean + std * noise.normal("stochastic", mean.shape, mean)

    def mode(self, parameters: Tensor) -> Tensor:
        return self.mean_and_std(parameters)[0]

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """[...] KL(p ‖ q) in nats of the Gaussians with parameters p and q [..., 2 S]; reparameterised, as `sample`."""
        return gaussian_kl(*self.mean_and_std(p), *self.mean_and_std(q))
