"""Running statistics that put losses on a common scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningScale(nn.Module):
    """Divides by a running range between the 5th and 95th percentile, never below one.

    Args:
        rate: share of a new range that enters the running one.
    Reference: tdmpc2 common/scale.py.
    """

    value: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("value", torch.ones(1))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Move the scale towards the range of x (any shape, taken as one sample)."""
        flat = x.detach().flatten().sort().values
        low, high = (percentile(flat, share) for share in (5.0, 95.0))
        self.value.lerp_((high - low).clamp(min=1.0).to(self.value.dtype).reshape(1), self.rate)

    def forward(self, x: Tensor) -> Tensor:
        """x divided by the scale, which gets no gradient."""
        return x / self.value


def percentile(ascending: Tensor, percent: float) -> Tensor:
    """[] the percentile, interpolated linearly, of a sorted sample [N]."""
    position = percent * (ascending.shape[0] - 1) / 100
    below = int(position)
    above = min(below + 1, ascending.shape[0] - 1)
    return ascending[below] * (1 - (position - below)) + ascending[above] * (position - below)
