"""Where the time of a run goes: environment, acting, sampling, update, and what is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import nn
from torchrl.collectors import Collector

from worldloom_rl.data import Replay

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

PARTS = ("environment", "acting", "sampling", "update")
OTHER = "other"


class Profile:
    """Wall time by part, from when it is made. A part inside another counts for the inner one only.

    Args:
        device: on a GPU each part waits for what it started there, which makes the run a little slower.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._seconds = dict.fromkeys((*PARTS, OTHER), 0.0)
        self._running = [OTHER]
        self._since = time.perf_counter()

    def begin(self, part: str) -> None:
        """What follows counts for this part, until `end`."""
        self._count()
        self._running.append(part)

    def end(self) -> None:
        """What follows counts for the part that ran before."""
        self._count()
        self._running.pop()

    def timed(self, part: str, call: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        """The call, whose time counts for the part."""

        @wraps(call)
        def wrapped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            self.begin(part)
            try:
                return call(*args, **kwargs)
            finally:
                self.end()

        return wrapped

    def watch(self, collector: Collector | None, replay: Replay) -> None:
        """Time the collector's environments and policy, if there is one, and what replay samples."""
        replay.sample = self.timed("sampling", replay.sample)  # type: ignore[method-assign]
        if collector is None:
            return
        env, policy = collector.env, collector.policy
        env.step_and_maybe_reset = self.timed("environment", env.step_and_maybe_reset)
        assert isinstance(policy, nn.Module)
        policy.register_forward_pre_hook(lambda module, inputs: self.begin("acting"))
        policy.register_forward_hook(lambda module, inputs, output: self.end(), always_call=True)

    def leave_out(self, seconds: float) -> None:
        """Take back time that counted for nothing in particular, such as an evaluation."""
        self._count()
        self._seconds[OTHER] -= seconds

    def seconds(self) -> dict[str, float]:
        """Seconds of each part so far, "other" last."""
        self._count()
        return dict(self._seconds)

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
