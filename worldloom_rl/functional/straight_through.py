"""Draws that cannot be differentiated, learned as if they were their probabilities."""

from __future__ import annotations

from torch import Tensor


def straight_through(value: Tensor, probabilities: Tensor) -> Tensor:
    """The value, whose gradient is that of the probabilities of its shape (Bengio et al. 2013, arXiv:1308.3432)."""
    return value.detach() + (probabilities - probabilities.detach())
