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


class _RunningStatistics(nn.Module):
    """Moving averages of two statistics that start at zero; subclasses say which, and what scale they stand for.

    Reference: dreamerv3 embodied/jax/utils.py, Normalize.
    """

    correction: Tensor | None

    def __init__(self, names: tuple[str, str], rate: float, limit: float, debias: bool) -> None:
        super().__init__()
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"rate is the share of a new statistic in (0, 1], got {rate}.")
        if limit <= 0:
            raise ValueError(f"limit is the least scale and must be positive, got {limit}.")
        self.rate = rate
        self.limit = limit
        for name in names:
            self.register_buffer(name, torch.zeros(()))
        # The weight that the averages have given to data, less than one because they start at zero.
        self.register_buffer("correction", torch.zeros(()) if debias else None)

    def _move(self, average: Tensor, statistic: Tensor) -> None:
        average.lerp_(statistic.to(average.dtype), self.rate)

    def _count(self) -> None:
        if self.correction is not None:
            self.correction.lerp_(torch.ones_like(self.correction), self.rate)

    def _read(self, average: Tensor) -> Tensor:
        """[] a copy, which later updates leave as it is."""
        return average.clone() if self.correction is None else average / self.correction.clamp(min=self.rate)


class PercentileRange(_RunningStatistics):
    """Running range between a low and a high percentile, by which returns are divided.

    Args:
        rate: share of new percentiles that enters the running ones.
        limit: the scale is never below it, so that small returns are not blown up.
        low_percent, high_percent: in [0, 100].
        debias: divide by the weight of the data so far; otherwise the range grows from zero.
    Reference: Hafner et al. 2023 (arXiv:2301.04104), actor learning; dreamerv3 embodied/jax/utils.py, Normalize 'perc'.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        rate: float = 0.01,
        limit: float = 1.0,
        low_percent: float = 5.0,
        high_percent: float = 95.0,
        debias: bool = False,
    ) -> None:
        if not 0 <= low_percent < high_percent <= 100:
            raise ValueError(f"Percentiles must ascend in [0, 100], got {low_percent} and {high_percent}.")
        super().__init__(("low", "high"), rate, limit, debias)
        self.low_percent = low_percent
        self.high_percent = high_percent

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Move both percentiles towards those of x (any shape, taken as one sample)."""
        ascending = x.detach().flatten().sort().values
        self._move(self.low, percentile(ascending, self.low_percent))
        self._move(self.high, percentile(ascending, self.high_percent))
        self._count()

    def offset(self) -> Tensor:
        """[] the low percentile."""
        return self._read(self.low)

    def scale(self) -> Tensor:
        """[] distance of the percentiles, at least the limit."""
        return (self._read(self.high) - self._read(self.low)).clamp(min=self.limit)


class MeanStd(_RunningStatistics):
    """Running mean and standard deviation.

    Args:
        rate: share of new moments that enters the running ones.
        limit: least standard deviation.
        debias: divide by the weight of the data so far; otherwise the moments grow from zero.
    Reference: dreamerv3 embodied/jax/utils.py, Normalize 'meanstd'.
    """

    mean: Tensor
    mean_square: Tensor

    def __init__(self, rate: float = 0.01, limit: float = 1e-8, debias: bool = True) -> None:
        super().__init__(("mean", "mean_square"), rate, limit, debias)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Move both moments towards those of x (any shape, taken as one sample)."""
        self._move(self.mean, x.mean())
        self._move(self.mean_square, x.square().mean())
        self._count()

    def offset(self) -> Tensor:
        """[] the mean."""
        return self._read(self.mean)

    def scale(self) -> Tensor:
        """[] the standard deviation, at least the limit."""
        variance = self._read(self.mean_square) - self._read(self.mean).square()
        return variance.clamp(min=0).sqrt().clamp(min=self.limit)


def percentile(ascending: Tensor, percent: float) -> Tensor:
    """[] the percentile, interpolated linearly, of a sorted sample [N]."""
    position = percent * (ascending.shape[0] - 1) / 100
    below = int(position)
    above = min(below + 1, ascending.shape[0] - 1)
    return ascending[below] * (1 - (position - below)) + ascending[above] * (position - below)
