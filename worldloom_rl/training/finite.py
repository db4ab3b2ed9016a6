"""Stops a run whose numbers went wrong, before they reach the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn


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


def not_finite(*losses: Tensor) -> Tensor:
    """[] 1 if one of them is not, else 0: for the device to act upon, and nobody to wait for."""
    return (~torch.stack(losses).isfinite().all()).float()


def check_weights(model: nn.Module) -> None:
    """Raise FloatingPointError naming the first weights or running statistics that are not finite."""
    tensors = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    if bool(torch.stack([value.isfinite().all() for value in tensors.values()]).all()):  # the one wait for the device
        return
    wrong = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    raise FloatingPointError(
        f"{wrong[0]!r} is not finite ({len(wrong)} of {len(tensors)} tensors of the model are not). No checkpoint was "
        "made of it, and the last one stays. Lower the learning rate, and resume."
    )


def check_read(metrics: Mapping[str, float]) -> None:
    """Raise FloatingPointError naming the first loss that is not finite, of metrics that were read for people anyway.

    A recipe whose `update` does not look at its losses is stopped by this at last.
    """
    wrong = [name for name, value in metrics.items() if name.startswith("loss") and not math.isfinite(value)]
    if wrong:
        raise FloatingPointError(
            f"{wrong[0]!r} is not finite, and the update was made. The last checkpoint stays. Lower the learning rate, "
            "and resume."
        )
