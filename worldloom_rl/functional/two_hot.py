"""Regression as classification over evenly spaced bins in symlog space (TD-MPC2, arXiv:2310.16828)."""

from __future__ import annotations

import torch
from torch import Tensor

from worldloom_rl.functional.precision import at_least_float32
from worldloom_rl.functional.scaling import symexp, symlog


def two_hot(x: Tensor, low: float, high: float, count: int) -> Tensor:
    """[..., K] weights on the two bins around symlog(x), which sum to one.

    Args:
        x: [..., 1], clamped to the bins' range.
        low: position of the first bin, in symlog space.
        high: position of the last bin.
        count: K, number of bins.
    Reference: tdmpc2 common/math.py, two_hot.
    """
    if x.shape[-1] != 1:
        raise ValueError(f"two_hot expects a last dimension of size 1, got shape {tuple(x.shape)}.")
    position = (symlog(x).clamp(low, high) - low) / ((high - low) / (count - 1))
    index = position.floor().nan_to_num(0.0)  # of a NaN the weights are NaN, and the loss tells of it
    weight = position - index
    index = index.long()
    target = x.new_zeros(*x.shape[:-1], count)
    target.scatter_(-1, index, 1 - weight)
    # At the upper edge the weight is zero and lands on bin 0, where nothing else is.
    return target.scatter_(-1, (index + 1) % count, weight)


def two_hot_mean(logits: Tensor, low: float, high: float) -> Tensor:
    """[..., 1] the number that logits [..., K] stand for: symexp of the expected bin position."""
    logits = at_least_float32(logits)
    bins = torch.linspace(low, high, logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return symexp((logits.softmax(-1) @ bins).unsqueeze(-1))


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """[...] cross-entropy −Σₖ targetₖ log softmax(logits)ₖ; logits and target [..., K] broadcast over leading dims."""
    return -(target * at_least_float32(logits).log_softmax(-1)).sum(-1)
