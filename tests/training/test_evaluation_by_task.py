"""What an evaluation of several tasks says of each and of all."""

from __future__ import annotations

import dataclasses

import pytest

from worldloom_rl.training.evaluate import Evaluation, by_task, normalised, worst_task

PLAYED = Evaluation(0, [100.0, 300.0, 500.0, 700.0, -3.0, -5.0], [10] * 6)
TASKS = ("dmc:cup-catch", "walker-walk", "Pendulum-v1")


def test_each_task_has_its_mean_and_the_normalised_score_leaves_out_tasks_without_one() -> None:
    found = by_task(PLAYED, TASKS)
    assert found.returns_by_task == {TASKS[0]: [100.0, 300.0], TASKS[1]: [500.0, 700.0], TASKS[2]: [-3.0, -5.0]}
    means = {"return/dmc:cup-catch": 200.0, "return/walker-walk": 600.0, "return/Pendulum-v1": -4.0}
    assert found.statistics == {"normalised_score": 40.0, **means}
    assert found.score == 40.0
    assert str(found) == (
        "return 265.3, normalised_score 40, 6 episodes (dmc:cup-catch 200.0, walker-walk 600.0, Pendulum-v1 -4.0)"
    )


def test_a_task_of_metaworld_is_judged_by_success_beside_one_of_deepmind_control_by_return() -> None:
    played = dataclasses.replace(PLAYED, successes=[None, None, None, None, True, False])
    found = by_task(played, (*TASKS[:2], "mw-reach"))
    assert found.statistics["success/mw-reach"] == 0.5
    assert found.statistics["normalised_score"] == (20 + 60 + 50) / 3
    assert "success/dmc:cup-catch" not in found.statistics
    assert found.of_task("mw-reach").successes == [True, False]
    assert found.of_task("walker-walk").successes == []
    assert "success rate 0.50" in str(found)
    assert normalised("mw-reach", 500.0, 0.25) == 25.0


def test_the_worst_task_has_the_lowest_score_or_where_one_has_none_the_lowest_return() -> None:
    scored = {"return/dmc:cup-catch": 200.0, "return/walker-walk": 600.0, "return/mw-reach": 4000.0}
    tasks = ("dmc:cup-catch", "walker-walk", "mw-reach")
    assert worst_task(scored | {"success/mw-reach": 0.1}, tasks) == "mw-reach"
    assert worst_task(scored, tasks) == "dmc:cup-catch"
    assert worst_task({}, tasks) == "dmc:cup-catch"
    assert worst_task(by_task(PLAYED, TASKS).statistics, TASKS) == "Pendulum-v1"


def test_without_normalised_scores_the_mean_return_tells_a_better_checkpoint() -> None:
    assert PLAYED.score == PLAYED.mean_return
    assert by_task(dataclasses.replace(PLAYED, returns=[1.0, 3.0]), ("Pendulum-v1",)).score == 2.0


@pytest.mark.parametrize(
    ("task", "score"), [("dmc:cup-catch", 50.0), ("cup-spin", 50.0), ("Pendulum-v1", None), ("mw-reach", None)]
)
def test_a_tenth_of_a_return_in_deepmind_control_is_the_score(task: str, score: float | None) -> None:
    assert normalised(task, 500.0) == score
