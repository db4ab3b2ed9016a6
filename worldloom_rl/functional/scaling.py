"""Scalings of real numbers that tame large magnitudes."""

from __future__ import annotations

import torch
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """sign(x) · log(1 + |x|), elementwise. Reference: Hafner et al. 2023 (arXiv:2301.04104), symlog predictions."""
    return torch.sign(x) * torch.log(1 + torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """sign(x) · (exp|x| − 1), the inverse of `symlog`, elementwise."""
    return torch.sign(x) * (torch.exp(torch.abs(x)) - 1)
