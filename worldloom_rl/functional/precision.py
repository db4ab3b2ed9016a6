"""What is computed in float32 or better, whatever the precision of the weights: bounds, bins, distributions, rewards.

`model.double()` and `model.bfloat16()` change the precision of weights and latents, and `torch.autocast` that of
products. A discount of 0.995 or a bin at 4.9e8 has more digits than bfloat16 holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn


def precise(dtype: torch.dtype) -> torch.dtype:
    """float64 of float64, float32 of all that has fewer digits."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is in float64."""
    return x.to(precise(x.dtype))


def first_weight(layers: nn.Sequential) -> Tensor:
    """The first layer's weight, which says precision and device.

    `parameters()` does not say them: it is empty while TorchRL's losses call a module with tensors in their places.
    """
    weight = layers[0].weight
    assert isinstance(weight, Tensor)
    return weight


class PreciseBuffers(nn.Module):
    """A module whose own buffers stay float32 or better when it is cast to fewer digits; its parameters do not.

    Attributes:
        dtype: what the module was made in or cast to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dtype = torch.get_default_dtype()

    def _apply(self: Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Module:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # fn says what it makes of a number of the present precision, also where buffers have another.
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        for name, after in self._buffers.items():
            kept = before[name]
            if after is not None and kept is not None and after.is_floating_point() and after.dtype.itemsize < 4:
                self._buffers[name] = kept.to(after.device)
        return self


Module = TypeVar("Module", bound=PreciseBuffers)
