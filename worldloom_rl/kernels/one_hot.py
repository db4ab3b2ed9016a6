"""One-hot rows of classes.

Equals: `torch.nn.functional.one_hot`.
Taken: under torch.func (vmap, grad, …), where PyTorch's cannot look whether a class is out of range.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldloom_rl.kernels.transforms import transformed


def one_hot(index: Tensor, classes: int) -> Tensor:
    """int64 [..., classes] of int64 [...]. Raises RuntimeError for a class out of range, but not under torch.func."""
    if transformed():
        return (index.unsqueeze(-1) == torch.arange(classes, device=index.device)).long()
    return F.one_hot(index, classes)
