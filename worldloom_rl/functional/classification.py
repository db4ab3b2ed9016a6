"""How well a yes-or-no prediction fits."""

from __future__ import annotations

from torch import Tensor


def rate_and_f1(probability: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Share of positive targets, and the F1 score of predicting them at more than even odds; both scalars.

    Args:
        probability: [...] of the positive class.
        target: [...] of the same shape, 0 or 1.
    Reference: tdmpc2 common/math.py, termination_statistics.
    """
    if probability.shape != target.shape:
        raise ValueError(f"rate_and_f1 expects equal shapes, got {tuple(probability.shape)} and {tuple(target.shape)}.")
    predicted, actual = probability > 0.5, target > 0.5
    hits = (predicted & actual).sum()
    recall, precision = hits / (actual.sum() + 1e-9), hits / (predicted.sum() + 1e-9)
    return actual.to(probability.dtype).mean(), 2 * precision * recall / (precision + recall + 1e-9)
