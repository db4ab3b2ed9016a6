"""The profile of a run: every second counts for one part."""

from __future__ import annotations

import time

import pytest

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

    sample = profile.timed("sampling", wait)

    def update() -> None:
        wait(3.0)
        sample(2.0)
        wait(1.0)

    wait(10.0)
    profile.timed("update", update)()
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

    def fail() -> None:
        clock[0] += 1.0
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        profile.timed("update", fail)()
    clock[0] += 2.0
    assert profile.seconds()["update"] == 1.0
    assert profile.seconds()["other"] == 2.0
