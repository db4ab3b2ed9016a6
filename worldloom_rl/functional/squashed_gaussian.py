"""Gaussians squashed to [-1, 1] by tanh: the continuous policy prior of TD-MPC2 (tdmpc2 common/math.py)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def bounded_log_std(raw: Tensor, low: float, high: float) -> Tensor:
    """[...] logarithm of a standard deviation, moved smoothly into (low, high), from any real number [...]."""
    return low + 0.5 * (high - low) * (torch.tanh(raw) + 1)


def gaussian_log_probability(epsilon: Tensor, log_std: Tensor) -> Tensor:
    """[..., 1] log-density of mean + exp(log_std) · epsilon, summed over the last dimension of both [..., A]."""
    return (-0.5 * epsilon.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1, keepdim=True)


def squashed_log_probability(log_probability: Tensor, action: Tensor) -> Tensor:
    """[..., 1] log-density of action [..., A] = tanh(x), from that of x [..., 1]; finite also at ±1."""
    return log_probability - torch.log(F.relu(1 - action.square()) + 1e-6).sum(-1, keepdim=True)
