"""Mish with one exponential.

Equals: `torch.nn.functional.mish` within rounding, as exact.
Taken: on a CPU, and in compiled code; on other devices PyTorch's fused kernel is.
Saved: 0.6 of the time of PyTorch's Mish on a CPU, which was a quarter of a TD-MPC2 plan. With one exponential e,
tanh(softplus(x)) = e (e + 2) / (e (e + 2) + 2).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from worldloom_rl.kernels.context import Context
from worldloom_rl.kernels.transforms import eager_on_cpu

_LARGEST_EXPONENT = 20.0  # above it tanh(softplus(x)) is 1 in float32
_PART = 2**17  # numbers worked on at a time, which a core's cache holds


def fast_mish(x: Tensor) -> Tensor:
    """x · tanh(softplus(x)), elementwise (Misra 2019, arXiv:1908.08681)."""
    if torch.compiler.is_compiling():
        exponential = x.clamp(max=_LARGEST_EXPONENT).exp()
        numerator = exponential * (exponential + 2)
        return x * (numerator / (numerator + 2))
    if not eager_on_cpu(x):
        return F.mish(x)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Mish.apply(x)  # type: ignore[no-any-return, no-untyped-call]
    if x.numel() <= 2 * _PART:
        return _gate(x.clamp(max=_LARGEST_EXPONENT).exp_()).mul_(x)
    value = torch.empty_like(x, memory_format=torch.contiguous_format)
    for part, result in _parts(x, value):
        torch.mul(_gate(part.clamp(max=_LARGEST_EXPONENT).exp_()), part, out=result)
    return value


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape, all but the first contiguous, side by side and small enough for the cache."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    if len(flat[0]) <= 2 * _PART:
        return iter([tuple(flat)])
    return zip(*(torch.split(tensor, _PART) for tensor in flat), strict=True)


def _gate(exponential: Tensor) -> Tensor:
    """tanh(softplus(x)) from exp(x), which is overwritten."""
    numerator = exponential.mul_(exponential + 2)
    return numerator.div_(numerator + 2)


class _Mish(torch.autograd.Function):
    """Keeps the derivative instead of the input, so that the backward pass is one product."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        value, derivative = (torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
        for part, result, derived in _parts(x, value, derivative):
            exponential = part.clamp(max=_LARGEST_EXPONENT).exp_()
            sigmoid = exponential / (exponential + 1)
            gate = _gate(exponential)
            torch.mul(gate, part, out=result)
            slope = torch.addcmul(sigmoid, sigmoid, gate.square(), value=-1)  # σ(x) (1 − gate²)
            torch.addcmul(gate, part, slope, out=derived)
        ctx.save_for_backward(derivative)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> Tensor:
        (derivative,) = ctx.saved_tensors
        return derivative * gradient  # laid out as the first is, and as x was
