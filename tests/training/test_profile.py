"""The profile of a run: every second counts for one part."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from torch import nn

from worldloom_rl.training.profile import Profile, profile_text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """[now], in seconds."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_part_inside_another_counts_for_the_inner_one_only(clock: list[float]) -> None:
    profile = Profile()

    def wait(seconds: float) -> None:
        clock[0] += seconds

    wait(10.0)
    with profile.timing("update"):
        wait(3.0)
        with profile.timing("sampling"):
            wait(2.0)
        wait(1.0)
    wait(5.0)
    profile.leave_out(4.0)
    seconds = profile.seconds()
    assert seconds == {"environment": 0.0, "acting": 0.0, "sampling": 2.0, "update": 4.0, "other": 11.0}
    assert profile_text(seconds, 10) == (
        "Time of a training step, 1700.00 ms of wall time: environment 0% (0.00 ms), acting 0% (0.00 ms), "
        "sampling 12% (200.00 ms), update 24% (400.00 ms), other 65% (1100.00 ms)."
    )


def test_an_error_ends_its_part(clock: list[float]) -> None:
    profile = Profile()

    with suppress(ValueError), profile.timing("update"):
        clock[0] += 1.0
        raise ValueError
    clock[0] += 2.0
    assert profile.seconds()["update"] == 1.0
    assert profile.seconds()["other"] == 2.0


def test_calls_of_a_module_count_for_a_part(clock: list[float]) -> None:
    class Policy(nn.Module):
        def forward(self, fails: bool) -> None:
            clock[0] += 3.0
            if fails:
                raise ValueError

    profile, policy = Profile(), Policy()
    profile.time_calls(policy, "acting")
    with profile.timing("environment"):
        clock[0] += 1.0
        policy(False)
        with pytest.raises(ValueError):  # noqa: PT011
            policy(True)
    assert profile.seconds() == {"environment": 1.0, "acting": 6.0, "sampling": 0.0, "update": 0.0, "other": 0.0}
