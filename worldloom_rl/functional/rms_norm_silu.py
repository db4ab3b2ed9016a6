"""Root-mean-square norm (Zhang & Sennrich 2019, arXiv:1910.07467) followed by SiLU: DreamerV3's hidden layers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from worldloom_rl.functional.precision import at_least_float32


def rms_norm_silu(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """silu(x / √(mean(x²) + ε) · weight) over the last axis [..., W], computed in float32 or better, in x's dtype."""
    normed = F.rms_norm(at_least_float32(x), weight.shape, at_least_float32(weight), eps)
    return F.silu(normed).to(x.dtype)
