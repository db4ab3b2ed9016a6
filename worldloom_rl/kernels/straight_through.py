"""The straight-through gradient without arithmetic.

Equals: `functional.straight_through`, bit for bit.
Taken: where the probabilities have a gradient; otherwise the value is given back as it is.
Saved: a difference and a sum over the value, in both directions, of every draw of a categorical latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldloom_rl.functional import straight_through as plain
from worldloom_rl.kernels.context import Context
from worldloom_rl.kernels.transforms import transformed


def straight_through(value: Tensor, probabilities: Tensor) -> Tensor:
    """The value, whose gradient is that of the probabilities of its shape."""
    if transformed():
        return plain.straight_through(value, probabilities)
    if torch.is_grad_enabled() and probabilities.requires_grad:
        return _StraightThrough.apply(value, probabilities)  # type: ignore[no-any-return, no-untyped-call]
    return value


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, value: Tensor, probabilities: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient
