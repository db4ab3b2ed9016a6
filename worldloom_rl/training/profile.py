"""Where the time of a run goes: environment, acting, sampling, update, and what is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

PARTS = ("environment", "acting", "sampling", "update")
OTHER = "other"


class NoProfile:
    """Counts nothing: what a run has that is not profiled."""

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """The block, as it is."""
        yield

    def time_calls(self, module: nn.Module, part: str) -> None:
        """Leaves the module as it is."""

    def leave_out(self, seconds: float) -> None:
        """Nothing to take back."""

    def seconds(self) -> dict[str, float]:
        """Of no part."""
        return {}


NO_PROFILE = NoProfile()


class Profile(NoProfile):
    """Wall time by part, from when it is made. A part inside another counts for the inner one only.

    "environment" is stepping the environments and gathering what came, "acting" the policy therein.

    Args:
        device: on a GPU each part waits for what it started there, which makes the run a little slower.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._seconds = dict.fromkeys((*PARTS, OTHER), 0.0)
        self._running = [OTHER]
        self._since = time.perf_counter()
        self._hooks: list[RemovableHandle] = []

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """The block's time counts for this part."""
        self._begin(part)
        try:
            yield
        finally:
            self._end()

    def time_calls(self, module: nn.Module, part: str) -> None:
        """All calls of the module count for this part."""
        self._hooks += [
            module.register_forward_pre_hook(lambda module, inputs: self._begin(part)),
            module.register_forward_hook(lambda module, inputs, output: self._end(), always_call=True),
        ]

    def stop(self) -> None:
        """Leaves the modules whose calls counted as they were."""
        while self._hooks:
            self._hooks.pop().remove()

    def leave_out(self, seconds: float) -> None:
        """Take back time that counted for nothing in particular, such as an evaluation."""
        self._count()
        self._seconds[OTHER] -= seconds

    def seconds(self) -> dict[str, float]:
        """Seconds of each part so far, "other" last."""
        self._count()
        return dict(self._seconds)

    def _begin(self, part: str) -> None:
        self._count()
        self._running.append(part)

    def _end(self) -> None:
        self._count()
        self._running.pop()

    def _count(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self._seconds[self._running[-1]] += now - self._since
        self._since = now


def profile_text(seconds: dict[str, float], steps: int) -> str:
    """Shares, and milliseconds of each of so many steps, in one line."""
    total = sum(seconds.values())
    parts = (f"{part} {value / total:.0%} ({1e3 * value / steps:.2f} ms)" for part, value in seconds.items())
    return f"Time of a training step, {1e3 * total / steps:.2f} ms of wall time: {', '.join(parts)}."
