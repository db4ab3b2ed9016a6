"""Root-mean-square norm (Zhang & Sennrich 2019, arXiv:1910.07467) and SiLU, as DreamerV3 uses them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldloom_rl.kernels.rms_norm_silu import rms_norm_silu


class RMSNormSilu(nn.Module):
    """silu(x / sqrt(mean(x²) + ε) · weight), the norm over the last axis; computed in float32, in x's dtype."""

    def __init__(self, width: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, *, inplace: bool = False) -> Tensor:
        """[..., width]; in x's own memory if `inplace`, where there is no gradient to take."""
        return rms_norm_silu(x, self.weight, self.eps, inplace=inplace)
