"""Initial weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_UNIT_STD = 1.1368  # over the standard deviation of a normal that is cut at ±2; rounded as in the official code


@torch.no_grad()
def truncated_normal_(weight: Tensor, fan_in: int, scale: float = 1.0) -> Tensor:
    """The weight, filled with normal numbers of standard deviation scale/√fan_in, none beyond twice that (× 1.1368).

    Args:
        fan_in: how many numbers enter the layer; of a block-diagonal one all blocks' inputs together.
        scale: 0 gives zeros.
    Reference: dreamerv3 embodied/jax/nets.py, Initializer 'trunc_normal' with fan 'in'.
    """
    if fan_in < 1:
        raise ValueError(f"truncated_normal_ expects a positive fan_in, got {fan_in}.")
    nn.init.trunc_normal_(weight, mean=0.0, std=1.0, a=-2.0, b=2.0)
    return weight.mul_(_UNIT_STD * scale / math.sqrt(fan_in))
