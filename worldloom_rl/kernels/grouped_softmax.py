"""Softmax over few classes.

Equals: `Tensor.softmax(-1)` within rounding, in value, gradient and second derivatives.
Taken: on a CPU, not compiled, for up to 8 classes; by TD-MPC2's latents only where `pays_for_groups`.
Saved: PyTorch's kernel for a CPU works row by row, and a row that fills no vector of the processor number by number:
with AVX2 it takes 3.1 to 3.5 times as long on many groups of 2 to 6, and 2.2 to 2.6 times with the gradient. On the
full vector that a group of 8 is there it takes half the time of this one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldloom_rl.kernels.context import Context
from worldloom_rl.kernels.transforms import eager_on_cpu

_FEW = 8  # classes
_MANY = 4096  # numbers; of fewer PyTorch's one operation is done before these five
_VECTOR = 64 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 32  # bytes


def grouped_softmax(logits: Tensor) -> Tensor:
    """[..., K] softmax over the last axis."""
    if logits.shape[-1] > _FEW or not eager_on_cpu(logits):
        return logits.softmax(-1)
    if torch.is_grad_enabled() and logits.requires_grad:
        return _Softmax.apply(logits)  # type: ignore[no-any-return, no-untyped-call]
    return _softmax(logits)


def pays_for_groups(logits: Tensor) -> bool:
    """Whether `grouped_softmax` is faster than PyTorch's here: [..., K] are many, and K fill no vector.

    With AVX-512 so are groups of 8 float32. Fewer digits than float32's are PyTorch's, which computes in float32.
    """
    if not eager_on_cpu(logits) or logits.dtype not in (torch.float32, torch.float64):
        return False
    return logits.shape[-1] * logits.dtype.itemsize < _VECTOR and logits.numel() >= _MANY


def _softmax(logits: Tensor) -> Tensor:
    exponential = (logits - logits.amax(-1, keepdim=True)).exp_()
    return exponential.div_(exponential.sum(-1, keepdim=True))


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, logits: Tensor) -> Tensor:
        probabilities = _softmax(logits)
        ctx.save_for_backward(probabilities)
        return probabilities

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> Tensor:
        (probabilities,) = ctx.saved_tensors
        product = gradient * probabilities
        total: Tensor = product.sum(-1, keepdim=True)
        return product.addcmul_(probabilities, total, value=-1)
