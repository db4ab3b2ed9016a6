"""Softmax over few classes.

Equals: `Tensor.softmax(-1)` within rounding.
Taken: on a CPU, not compiled, for up to 8 classes; otherwise PyTorch's own is.
Saved: PyTorch's kernel for a CPU, made for wide rows, takes two to five times as long there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from worldloom_rl.kernels.context import Context
from worldloom_rl.kernels.transforms import eager_on_cpu

_FEW = 8  # classes


def grouped_softmax(logits: Tensor) -> Tensor:
    """[..., K] softmax over the last axis."""
    if logits.shape[-1] > _FEW or not eager_on_cpu(logits):
        return logits.softmax(-1)
    if torch.is_grad_enabled() and logits.requires_grad:
        return _Softmax.apply(logits)  # type: ignore[no-any-return, no-untyped-call]
    return _softmax(logits)


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
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> Tensor:
        (probabilities,) = ctx.saved_tensors
        product = gradient * probabilities
        total: Tensor = product.sum(-1, keepdim=True)
        return product.addcmul_(probabilities, total, value=-1)
