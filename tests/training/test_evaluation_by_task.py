"""What an evaluation of several tasks says of each and of all."""

from __future__ import annotations

import dataclasses

import pytest

from worldloom_rl.training.evaluate import Evaluation, by_task, normalised

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


def test_without_normalised_scores_the_mean_return_tells_a_better_checkpoint() -> None:
    assert PLAYED.score == PLAYED.mean_return
    assert by_task(dataclasses.replace(PLAYED, returns=[1.0, 3.0]), ("Pendulum-v1",)).score == 2.0


@pytest.mark.parametrize(
    ("task", "score"), [("dmc:cup-catch", 50.0), ("cup-spin", 50.0), ("Pendulum-v1", None), ("mw-reach", None)]
)
def test_a_tenth_of_a_return_in_deepmind_control_is_the_score(task: str, score: float | None) -> None:
    assert normalised(task, 500.0) == score
