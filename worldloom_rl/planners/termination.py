"""Termination rules: how much of a trajectory still counts after a step, given the predicted probability of going on.

The reward of the step that ends an episode counts under either rule; what comes later is multiplied by the result.
"""

from __future__ import annotations

import torch
from torch import Tensor


def soft_continue(alive: Tensor, continuation: Tensor) -> Tensor:
    """The product of the probabilities of going on."""
    return alive * continuation


def sticky_cut(alive: Tensor, continuation: Tensor) -> Tensor:
    """0 from the first step on that ends the episode with more than even odds (TD-MPC2)."""
    return torch.where(continuation < 0.5, torch.zeros_like(alive), alive)
