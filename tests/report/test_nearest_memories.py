"""A dream as nearest memories in a report: which moments are shown, and what is said where nothing can be drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldloom_rl.commands.report import _nearest_memories
from worldloom_rl.commands.trained import newest
from worldloom_rl.report.nearest_memories import draw_nearest_memories, dream_beside_the_world

SAVED = Path(__file__).parents[1] / "saved_by_0_6"


def test_a_dream_is_drawn_step_by_step_beside_the_world_with_its_distances() -> None:
    trained = newest(SAVED / "run-tdmpc2")
    played = trained.recipe, trained.config, trained.model
    session = dream_beside_the_world(*played, context=3, horizon=15, memories=5, seed=0)  # episodes have 15 steps
    dreamt, shown = session.moments[2:], (0, 2, 4, 6, 9, 11, 13, 15)
    assert [moment.dreaming for moment in dreamt] == [True] * 16
    name, caption, figure = draw_nearest_memories(session)
    assert "nearest memory, not a prediction" in caption
    assert name == "what the model dreams, as nearest memories"
    above, below = figure.axes[:8], figure.axes[8:]
    assert [axes.get_title() for axes in above] == [f"step {step}" for step in shown]
    assert [axes.get_title() for axes in below] == [f"distance {dreamt[step].memory:.2f}" for step in shown]
    # The world's episode ended before its dream: nothing is shown of it then.
    assert [bool(axes.images) for axes in above] == [dreamt[step].world is not None for step in shown]
    assert not above[-1].images
    assert all(axes.images for axes in below)


def test_where_nothing_can_be_drawn_the_page_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise ValueError("Pendulum-v1 cannot be drawn")

    monkeypatch.setattr("worldloom_rl.play.session.open_world", refuse)
    facts: dict[str, str] = {}
    assert _nearest_memories(newest(SAVED / "run-tdmpc2"), facts, 5, 0) == []
    assert facts == {"dream as nearest memories": "none: Pendulum-v1 cannot be drawn"}
