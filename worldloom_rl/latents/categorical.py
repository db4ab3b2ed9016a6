"""Groups of one-hot categoricals (DreamerV2, DreamerV3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchrl.data import Bounded, TensorSpec

from worldloom_rl.functional.divergences import categorical_kl
from worldloom_rl.kernels.grouped_softmax import grouped_softmax
from worldloom_rl.kernels.straight_through import straight_through
from worldloom_rl.latents.space import LatentSpace
from worldloom_rl.noise import Noise


class CategoricalLatent(LatentSpace):
    """[S, K] one-hot rows drawn from S categoricals over K classes.

    Args:
        groups: S.
        classes: K.
        unimix: share of uniform mass mixed into every categorical.
        temperature: None draws one-hot values whose gradient is that of the probabilities (straight-through); a number
            draws soft values from the Gumbel-softmax distribution of that temperature instead.
    Reference: Hafner et al. 2023 (arXiv:2301.04104); Gumbel-softmax: Jang et al. 2017 (arXiv:1611.01144).
    """

    def __init__(self, groups: int, classes: int, *, unimix: float = 0.01, temperature: float | None = None) -> None:
        if not 0.0 <= unimix < 1.0:
            raise ValueError(f"unimix is a share of probability mass in [0, 1), got {unimix}.")
        if temperature is not None and temperature <= 0:
            raise ValueError(f"The Gumbel-softmax temperature must be positive, got {temperature}.")
        self.groups = groups
        self.classes = classes
        self.unimix = unimix
        self.temperature = temperature
        self.parameters_width = self.features_width = groups * classes

    @property
    def shape(self) -> torch.Size:
        return torch.Size([self.groups, self.classes])

    def spec(self, batch: Sequence[int] = ()) -> TensorSpec:
        return Bounded(low=0.0, high=1.0, shape=(*batch, *self.shape), dtype=torch.float32)

    def probabilities(self, parameters: Tensor) -> Tensor:
        """[..., S, K] probabilities after mixing in the uniform mass."""
        self._check(parameters)
        probabilities = grouped_softmax(torch.unflatten(parameters, -1, (self.groups, self.classes)))
        if self.unimix == 0:
            return probabilities
        return (1 - self.unimix) * probabilities + self.unimix / self.classes

    def log_probabilities(self, parameters: Tensor) -> Tensor:
        """[..., S, K] normalised log-probabilities after mixing in the uniform mass."""
        if self.unimix == 0:
            self._check(parameters)
            return torch.unflatten(parameters, -1, (self.groups, self.classes)).log_softmax(-1)
        return self.probabilities(parameters).log()

    def sample(self, parameters: Tensor, noise: Noise) -> Tensor:
        if self.temperature is not None:
            log_probabilities = self.log_probabilities(parameters)
            gumbel = -noise.exponential("stochastic", log_probabilities.shape, log_probabilities).log()
            return ((log_probabilities + gumbel) / self.temperature).softmax(-1)
        probabilities = self.probabilities(parameters)
        return self._one_hot(noise.category("stochastic", probabilities), probabilities)

    def draw(self, parameters: Tensor, noise: Noise) -> Tensor:
        """int64 [..., S] the classes that `sample` would draw, where it draws one-hot values."""
        return noise.category("stochastic", self.probabilities(parameters))

    def mode(self, parameters: Tensor) -> Tensor:
        probabilities = self.probabilities(parameters)
        return self._one_hot(probabilities.argmax(-1), probabilities)

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """[...] KL(p ‖ q) in nats of the categoricals with parameters p and q [..., S · K], summed over groups."""
        return categorical_kl(self.log_probabilities(p), self.log_probabilities(q))

    def _one_hot(self, index: Tensor, probabilities: Tensor) -> Tensor:
        """[..., S, K] with the gradient of the probabilities; rows of the identity are read faster than F.one_hot."""
        identity = torch.eye(self.classes, dtype=probabilities.dtype, device=probabilities.device)
        return straight_through(F.embedding(index, identity), probabilities)


def gumbel_argmax(probabilities: Tensor, exponential: Tensor) -> Tensor:
    """int64 [...] class drawn from probabilities [..., K] by the Gumbel-max trick, from Exp(1) draws [..., K]."""
    return (probabilities.log() - exponential.log()).argmax(-1)
