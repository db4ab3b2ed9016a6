"""RMSNorm followed by SiLU, with its gradient written out.

Equals: `functional.rms_norm_silu` within rounding.
Taken: on a CPU, not compiled.
Saved: PyTorch has no fused kernel of this norm for a CPU. It takes a pass over memory for each of its operations, and
so does its gradient; here all operations but the first work in place.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from worldloom_rl.functional import rms_norm_silu as plain
from worldloom_rl.kernels.context import Context
from worldloom_rl.kernels.transforms import eager_on_cpu


class Normed(NamedTuple):
    """The value, and what its gradient needs."""

    value: Tensor  # [..., W]
    normed: Tensor  # [..., W] n = x s
    inverse: Tensor  # [..., 1] s, the inverse root mean square


def rms_norm_silu(x: Tensor, weight: Tensor, eps: float, *, inplace: bool = False) -> Tensor:
    """silu(x / √(mean(x²) + ε) · weight) over the last axis [..., W], computed in float32 or better, in x's dtype.

    Args:
        inplace: in x's own memory, where there is no gradient to take.
    """
    if not eager_on_cpu(x):
        return plain.rms_norm_silu(x, weight, eps)
    if x.dtype not in (torch.float32, torch.float64):
        return rms_norm_silu(x.float(), weight.float(), eps).to(x.dtype)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _RMSNormSilu.apply(x, weight, eps)  # type: ignore[no-any-return, no-untyped-call]
    inverse = _inverse_rms(x, eps)
    return F.silu((x.mul_(inverse) if inplace else x * inverse).mul_(weight), inplace=True)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """[..., 1] 1 / √(mean(x²) + ε) = √W / hypot(|x|, √(W ε)), the form of the fewest operations."""
    root, least = _constants(x.shape[-1], eps, x.dtype)
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return root / length.hypot_(least)


@functools.cache
def _constants(width: int, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """√W and √(W ε): an operation with a tensor starts in half the time of one with a number."""
    root, least = math.sqrt(width), math.sqrt(width * eps)
    return torch.tensor(root, dtype=dtype, device="cpu"), torch.tensor(least, dtype=dtype, device="cpu")


def rms_norm_silu_forward(x: Tensor, weight: Tensor, eps: float) -> Normed:
    """The norm of x [..., W], and what its gradient needs."""
    inverse = _inverse_rms(x, eps)
    normed = x * inverse
    return Normed(F.silu(normed * weight, inplace=True), normed, inverse)


def rms_norm_silu_backward(gradient: Tensor, weight: Tensor, normed: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by x, and by the weight [..., W] before the sum over rows."""
    slope = torch.ops.aten.silu_backward(gradient, normed * weight)
    by_weight = slope * normed
    # ∂n/∂x = s (1 − n nᵀ / W)
    along = (by_weight @ weight).unsqueeze(-1).div_(weight.shape[0])
    return slope.mul_(weight).addcmul_(normed, along, value=-1).mul_(inverse), by_weight


class _RMSNormSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        value, normed, inverse = rms_norm_silu_forward(x, weight, eps)
        ctx.save_for_backward(weight, normed, inverse)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        by_x, by_weight = rms_norm_silu_backward(gradient, *ctx.saved_tensors)
        return by_x, by_weight.reshape(-1, by_weight.shape[-1]).sum(0), None
