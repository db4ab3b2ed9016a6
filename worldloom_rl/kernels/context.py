"""What an autograd.Function's forward pass leaves to its backward pass."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Context(Protocol):
    """The first argument of both passes."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...
