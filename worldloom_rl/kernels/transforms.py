"""Where written-out gradients and work in place do not serve."""

from __future__ import annotations

import torch
from torch import Tensor


def transformed() -> bool:
    """Whether torch.func (vmap, grad, …) or torch.export transforms what runs now; it takes the plain functions.

    torch.compile has its own way with these. A kernel's autograd.Function could name its rules by `setup_context`, but
    then each call binds its arguments anew, which takes longer than a small kernel.
    """
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return torch._C._are_functorch_transforms_active()


def eager_on_cpu(x: Tensor) -> bool:
    """Whether x is on a CPU, neither compiled nor transformed."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not transformed()
