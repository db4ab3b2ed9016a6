"""Root-mean-square norm (Zhang & Sennrich 2019, arXiv:1910.07467) followed by SiLU: DreamerV3's hidden layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm_silu(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """silu(x / √(mean(x²) + ε) · weight) over the last axis [..., W], computed in float32 or better, in x's dtype."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return F.silu(F.rms_norm(wide, weight.shape, weight, eps)).to(x.dtype)
