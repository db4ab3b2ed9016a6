"""Root-mean-square norm (Zhang & Sennrich 2019, arXiv:1910.07467) as DreamerV3 uses it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + ε) · weight over the last axis; computed in float32 and given back in x's dtype."""

    def __init__(self, width: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)
