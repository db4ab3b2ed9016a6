"""Statistics of episode returns, as pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

_TRIMMED = 0.25  # share cut off at each end
_SEED = 0  # the same scores always get the same interval

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # [resamples, scores] → [resamples]


def mean_of_rows(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """[resamples] mean of each row of scores."""
    return np.asarray(scores.mean(1))


def interquartile_mean_of_rows(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """[resamples] mean of the middle half of each row of scores."""
    return np.asarray(trim_mean(scores, _TRIMMED, axis=1))


def interquartile_mean(scores: Sequence[float]) -> float:
    """Mean of the middle half: a quarter of the scores, rounded down, is left out at each end.

    Reference: Agarwal et al. 2021 (arXiv:2108.13264).
    """
    return float(trim_mean(scores, _TRIMMED))


def bootstrap_interval(
    strata: Sequence[Sequence[float]],
    *,
    statistic: Statistic = interquartile_mean_of_rows,
    level: float = 0.95,
    resamples: int = 5000,
) -> tuple[float, float]:
    """Percentile interval of a statistic of all scores, under a stratified bootstrap.

    Every resample draws as many scores from a stratum as it holds, from that stratum alone: the interval tells how
    sure the scores of these strata are, not what another stratum would have scored.

    Args:
        strata: scores of each stratum, such as the episodes of each run; lengths may differ.
        level: share of data sets whose interval holds the true value, nearly.
    """
    generator = np.random.default_rng(_SEED)
    drawn = [generator.choice(np.asarray(scores, float), (resamples, len(scores))) for scores in strata]
    low, high = np.quantile(statistic(np.concatenate(drawn, 1)), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def share_above(scores: Sequence[float], thresholds: Sequence[float]) -> NDArray[np.float64]:
    """The performance profile: for each threshold, the share of scores above it."""
    ordered = np.sort(np.asarray(scores, float))
    return 1 - np.searchsorted(ordered, thresholds, side="right") / len(ordered)


def score_text(score: float) -> str:
    """The score for people, with digits enough for its size."""
    return f"{score:,.1f}" if abs(score) >= 10 else f"{score:.3f}"
