"""Whether torch can compute on the device that a run names."""

from __future__ import annotations

import torch


def check_device(name: str) -> None:
    """Raise ValueError for a device that is none, or that this machine does not have."""
    try:
        torch.zeros((), device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        seen = ", ".join(["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))])
        raise ValueError(
            f"device {name!r} cannot be used: torch sees {seen} here ({str(error).splitlines()[0]:.100}). Give one of "
            "these: --device, or in a run's config.json."
        ) from error
