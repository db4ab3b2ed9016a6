"""The scale of TD-MPC2's Q values."""

from __future__ import annotations

import torch
from torch import Tensor

from worldloom_rl.functional.precision import PreciseBuffers
from worldloom_rl.nn.percentile_range import percentile


class RunningScale(PreciseBuffers):
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
