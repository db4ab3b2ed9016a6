"""Cross-entropy against a target that is zero almost everywhere, with its gradient written out.

Equals: `functional.two_hot.soft_cross_entropy` of the target that has each weight at its index, within rounding.
Taken: always, by the two-hot heads.
Saved: the target [..., K] is never made, and in the backward pass the probabilities become the gradient in place.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from worldloom_rl.functional.two_hot import soft_cross_entropy
from worldloom_rl.kernels.context import Context
from worldloom_rl.kernels.transforms import transformed


def sparse_cross_entropy(logits: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """[...] −Σⱼ weightⱼ log softmax(logits)[indexⱼ], whose gradient reaches the logits alone.

    Args:
        logits: [..., K]; index: int64 [..., J] of classes; weight: [..., J].
    """
    if transformed():
        target = torch.zeros_like(logits).scatter_add(-1, index, weight.to(logits.dtype))
        return soft_cross_entropy(logits, target)
    return _SparseCrossEntropy.apply(logits, index, weight)  # type: ignore[no-any-return, no-untyped-call]


class _SparseCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, logits: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        log_probability = logits.log_softmax(-1)
        ctx.save_for_backward(log_probability, index, weight)
        return (log_probability.gather(-1, index) * weight).sum(-1).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        log_probability, index, weight = ctx.saved_tensors
        share = weight * gradient.unsqueeze(-1)
        by_logits = log_probability.exp().mul_(share.sum(-1, keepdim=True))
        return by_logits.scatter_add_(-1, index, share.neg_()), None, None
