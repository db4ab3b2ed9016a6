"""Episodes that several processes played are one evaluation."""

from __future__ import annotations

from worldloom_rl.training.evaluate import Evaluation, united


def test_episodes_stand_in_order_and_what_else_was_measured_is_averaged() -> None:
    one = Evaluation(0, [1.0, 2.0], [3, 4], [], statistics={"error": 0.5})
    other = Evaluation(0, [5.0], [6], [True], statistics={"error": 1.5})
    both = united([one, other])
    assert both.returns == [1.0, 2.0, 5.0]
    assert both.lengths == [3, 4, 6]
    assert both.successes == [None, None, True]
    assert both.statistics == {"error": 1.0}
    assert united([one]) is one
    assert united([one, one]).successes == []
