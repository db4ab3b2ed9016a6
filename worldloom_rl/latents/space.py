"""The interface of a latent space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torchrl.data import TensorSpec

from worldloom_rl.noise import Noise


class LatentSpace(ABC):
    """One leaf of a latent: its shape, how `parameters` (raw network outputs) become a value, its flat view."""

    parameters_width: int  # last dimension of the raw network output
    features_width: int  # last dimension of the flat view

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """Shape of one value, without batch dimensions."""

    @abstractmethod
    def spec(self, batch: Sequence[int] = ()) -> TensorSpec:
        """TorchRL spec of a batch of values."""

    @abstractmethod
    def sample(self, parameters: Tensor, noise: Noise) -> Tensor:
        """[..., *shape] a value drawn from parameters [..., parameters_width]; gradients reach the parameters."""

    @abstractmethod
    def mode(self, parameters: Tensor) -> Tensor:
        """[..., *shape] the most likely value under parameters [..., parameters_width]."""

    def features(self, value: Tensor) -> Tensor:
        """[..., features_width] the flat view of values [..., *shape]."""
        return value.flatten(-len(self.shape))

    def _check(self, parameters: Tensor) -> None:
        if parameters.shape[-1] != self.parameters_width:
            raise ValueError(
                f"{type(self).__name__} expects parameters of last dimension {self.parameters_width}, "
                f"got shape {tuple(parameters.shape)}."
            )
