"""Simplicial embeddings: groups of softmax outputs (TD-MPC2, arXiv:2310.16828)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchrl.data import Bounded, TensorSpec

from worldloom_rl.kernels.grouped_softmax import grouped_softmax, pays_for_groups
from worldloom_rl.latents.space import LatentSpace
from worldloom_rl.noise import Noise


class SimNormLatent(LatentSpace):
    """[L] numbers in L / V groups of V, each group a point of the simplex. Deterministic: sample and mode agree.

    Args:
        width: L.
        group: V, must divide L.
    """

    def __init__(self, width: int, group: int) -> None:
        if group < 1 or width % group:
            raise ValueError(f"SimNorm needs a width that the group size divides, got width {width} and group {group}.")
        self.group = group
        self.parameters_width = self.features_width = width

    @property
    def shape(self) -> torch.Size:
        return torch.Size([self.parameters_width])

    def spec(self, batch: Sequence[int] = ()) -> TensorSpec:
        return Bounded(low=0.0, high=1.0, shape=(*batch, *self.shape), dtype=torch.float32)

    def sample(self, parameters: Tensor, noise: Noise) -> Tensor:
        return self.mode(parameters)

    def mode(self, parameters: Tensor) -> Tensor:
        self._check(parameters)
        groups = torch.unflatten(parameters, -1, (-1, self.group))
        return (grouped_softmax(groups) if pays_for_groups(groups) else groups.softmax(-1)).flatten(-2)
