"""Every planner's return against the sequences it values: the script that measures it, and what the files show."""

from __future__ import annotations

from pathlib import Path

import pytest
from planners import CLIMBS, COLORS, SEQUENCES, draw, pendulum, planners, recorded

from worldloom_rl.commands.trained import newest

SAVED = Path(__file__).parents[1] / "saved_by_0_6"


def test_a_plan_values_as_many_sequences_as_it_is_asked_for() -> None:
    model = newest(SAVED / "run-tdmpc2").model
    latent = model.initial_latent((1,))
    for count in (16, 64):
        for name, make in planners(count).items():
            planner = make(model, horizon=2)
            drawn = planner.plan(latent, latent["deterministic"].new_zeros(1, 2, 1), model.noise, explore=False)
            valued = sum(each.value.shape[1] for each in drawn.iterations)
            assert valued * (CLIMBS + 1 if name == "gradient" else 1) == count


@pytest.mark.slow
def test_planners_of_a_run_are_measured_in_the_same_episodes() -> None:
    result = pendulum(SAVED / "run-tdmpc2", sequences=(16,))
    assert result["planners"].keys() == COLORS.keys()
    for (point,) in result["planners"].values():
        assert point["sequences"] == 16
        assert len(point["returns"]) == len(result["random_returns"]) == 10
    figure = draw({"pendulum": [result]})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*COLORS, "random actions"]


@pytest.mark.parametrize("task", recorded())
def test_recorded_planners_beat_random_actions(task: str) -> None:
    seeds = recorded()[task]
    by_chance = [value for result in seeds for value in result["random_returns"]]
    for result in seeds:
        assert {"commit", "tree", "versions", "machine", "config"} <= set(result)
    for name in COLORS:
        points = [point for result in seeds for point in result["planners"][name]]
        assert [point["sequences"] for point in points] == list(SEQUENCES) * len(seeds)
        most = [value for point in points if point["sequences"] == SEQUENCES[-1] for value in point["returns"]]
        assert sum(most) / len(most) > sum(by_chance) / len(by_chance)
