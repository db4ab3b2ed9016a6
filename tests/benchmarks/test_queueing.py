"""The simulation of actors gives what was measured, and the table that is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from speed.queueing import Load, run, with_actors

# Environments of 10 to 30 ms, two an actor, on two cores of which others took one; as measured on 0.6.
MEASURED = Load("measured", 11.9, 0.0, (10, 30), 6 / 16, 1.0, cores=1)


@pytest.mark.parametrize(("actors", "steps_per_second"), [(1, 31), (2, 75), (4, 113)])
def test_simulated_actors_bring_what_measured_ones_brought(actors: int, steps_per_second: float) -> None:
    assert with_actors(MEASURED, actors, environments=2) == pytest.approx(steps_per_second, rel=0.25)


def test_in_one_process_it_is_what_was_measured() -> None:
    assert MEASURED.in_one_process(2) == pytest.approx(38, rel=0.05)


def test_actors_never_bring_more_than_the_learner_takes_or_they_make() -> None:
    load = Load("any", 1.0, 0.5, (4, 4), 10.0, 0.5)
    for actors in (1, 2, 16):
        made = actors * 2e3 / (2 * 4 + load.act(2))
        bound = min(made, 1e3 / load.learning)
        assert 0.9 * bound < with_actors(load, actors, environments=2) < 1.01 * bound


def test_the_how_to_shows_the_table() -> None:
    page = Path(__file__).parents[2] / "tutorials" / "README.md"
    assert run() in page.read_text("utf-8")
