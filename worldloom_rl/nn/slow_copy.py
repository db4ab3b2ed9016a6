"""Slow copies of networks: exponential moving averages of their parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def lerp_parameters(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Move every parameter of target towards its counterpart in source by this share of the distance.

    Args:
        target: changed in place; its buffers are not.
        source: of the same structure.
        rate: in [0, 1]; 1 copies.
    """
    slow: list[Tensor] = list(target.parameters())
    online: list[Tensor] = list(source.parameters())
    shapes = [[tuple(p.shape) for p in parameters] for parameters in (slow, online)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"lerp_parameters expects the same shapes in target and source, got {shapes[0]} and {shapes[1]}."
        )
    torch._foreach_lerp_(slow, online, rate)
