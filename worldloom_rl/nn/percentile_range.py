"""A running range of percentiles, by which what varies in size is divided."""

from __future__ import annotations

import torch
from torch import Tensor

from worldloom_rl import ranks
from worldloom_rl.functional.precision import PreciseBuffers


class PercentileRange(PreciseBuffers):
    """Running range between a low and a high percentile, by which returns are divided; it grows from zero.

    Args:
        rate: share of new percentiles that enters the running ones.
        limit: the scale is never below it, so that small returns are not blown up.
        low_percent, high_percent: in [0, 100].
    Reference: Hafner et al. 2023 (arXiv:2301.04104), actor learning; dreamerv3 embodied/jax/utils.py, Normalize 'perc'.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, rate: float = 0.01, limit: float = 1.0, low_percent: float = 5.0, high_percent: float = 95.0
    ) -> None:
        super().__init__()
        if not 0 <= low_percent < high_percent <= 100:
            raise ValueError(f"Percentiles must ascend in [0, 100], got {low_percent} and {high_percent}.")
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"rate is the share of a new statistic in (0, 1], got {rate}.")
        if limit <= 0:
            raise ValueError(f"limit is the least scale and must be positive, got {limit}.")
        self.rate, self.limit = rate, limit
        self.low_percent, self.high_percent = low_percent, high_percent
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Move both percentiles towards those of x (any shape, taken with those of all processes as one sample)."""
        ascending = ranks.gather(x).sort().values
        for running, percent in ((self.low, self.low_percent), (self.high, self.high_percent)):
            running.lerp_(percentile(ascending, percent).to(running.dtype), self.rate)

    def scale(self) -> Tensor:
        """[] distance of the percentiles, at least the limit; later updates leave it as it is."""
        return (self.high - self.low).clamp(min=self.limit)


def percentile(ascending: Tensor, percent: float) -> Tensor:
    """[] the percentile, interpolated linearly, of a sorted sample [N]."""
    position = percent * (ascending.shape[0] - 1) / 100
    below = int(position)
    above = min(below + 1, ascending.shape[0] - 1)
    return ascending[below] * (1 - (position - below)) + ascending[above] * (position - below)
