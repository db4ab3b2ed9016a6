"""Affine maps whose bias is left to what follows them.

Equals: `torch.nn.functional.linear`, and `torch.baddbmm` of stacked maps, within rounding.
Taken: compiled for a CPU, without a gradient, for more than one row; otherwise these are.
Saved: by itself torch.compile makes one call of product and bias, which first copies the bias to every row. A bias that
is added later is joined to what follows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_COLUMNS = 8  # a product of 101 columns takes longer than one of 104


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[..., outputs] W x + b."""
    if not _adds_bias_later(x):
        return F.linear(x, weight, bias)
    outputs = weight.shape[0]
    if outputs % _COLUMNS:
        weight = F.pad(weight, (0, 0, 0, -outputs % _COLUMNS))
    product = torch.bmm(x.reshape(1, -1, x.shape[-1]), weight.t().unsqueeze(0))
    return product.reshape(*x.shape[:-1], -1)[..., :outputs] + bias


def stacked_affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[M, N, outputs] W x + b of M maps: x [M, N, inputs], weight [M, outputs, inputs], bias [M, outputs]."""
    if _adds_bias_later(x[0]):
        return torch.bmm(x, weight.transpose(1, 2)) + bias.unsqueeze(1)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def _adds_bias_later(x: Tensor) -> bool:
    if not torch.compiler.is_compiling() or torch.is_grad_enabled() or x.device.type != "cpu":
        return False
    return x[..., 0].numel() > 1  # last: eager code pays for each look into a tensor
