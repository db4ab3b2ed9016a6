"""Stops a run whose numbers went wrong, before they reach the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import TensorDictBase
from torch import Tensor


def check_finite(losses: Mapping[str, Tensor], batch: TensorDictBase) -> None:
    """Raise FloatingPointError naming the first loss that is not finite and the batch entries that are not."""
    if bool(torch.stack([loss.isfinite().all() for loss in losses.values()]).all()):  # the one wait for the device
        return
    wrong = [name for name, loss in losses.items() if not bool(loss.isfinite().all())]
    keys = [
        key
        for key, value in batch.items(include_nested=True, leaves_only=True)
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    source = f"the batch holds others under {keys}" if keys else "all entries of the batch are finite"
    raise FloatingPointError(
        f"{wrong[0]!r} is not finite ({len(wrong)} of {len(losses)} losses are not); {source}. No update was made from "
        "it, and the last checkpoint stays. Mend the environment, or lower the learning rate, and resume."
    )
