"""What `worldloom check --data` says of recorded episodes."""

from __future__ import annotations

import pytest
import torch
from recorded_tasks import TASKS, TIME_LIMIT, InMemory, recorded

from worldloom_rl import cli
from worldloom_rl.data import Windows, join
from worldloom_rl.models.tdmpc2.encoder import specs_of_tasks
from worldloom_rl.report.recorded_data import RecordedData, describe_recorded
from worldloom_rl.tasks import TaskSet
from worldloom_rl.training.recorded_windows import RecordedWindows

SIZES = TaskSet(TASKS, (3, 2), (1, 1), (200, 999))


@pytest.fixture(scope="module")
def parts() -> list[InMemory]:
    return [recorded(TASKS[0], episodes=3), recorded(TASKS[1], episodes=5)]


def described(parts: list[InMemory]) -> RecordedData:
    windows = Windows(join(parts), window=4, batch_size=2, generator=torch.Generator())
    return describe_recorded(RecordedWindows(windows, *specs_of_tasks(SIZES)), SIZES, (0.975, 0.99), TASKS[1:])


def test_a_line_a_task_tells_widths_lengths_discount_episodes_and_returns(parts: list[InMemory]) -> None:
    found = described(parts)
    assert [task.observes for task in found.tasks] == [(3, 3), (2, 3)]
    assert [(task.longest, task.discount, task.episodes) for task in found.tasks] == [(200, 0.975, 3), (999, 0.99, 5)]
    assert {task.rows for task in found.tasks} == {(TIME_LIMIT + 1, TIME_LIMIT + 1)}
    assert [task.played for task in found.tasks] == [True, False]
    for task, part in zip(found.tasks, parts, strict=True):
        returns = part.rows(torch.arange(int(part.lengths.sum())))["reward"].reshape(len(part.lengths), -1).sum(-1)
        expected = [float(value) for value in (returns.min(), returns.mean(), returns.max())]
        assert task.returns == pytest.approx(expected, rel=1e-5)


def test_the_text_is_a_table_and_the_whole(parts: list[InMemory]) -> None:
    head, titles, first, second, whole = described(parts).text().splitlines()
    assert head == f"8 episodes with {8 * (TIME_LIMIT + 1)} rows of {parts[0].source} and {parts[1].source}, 2 tasks"
    assert titles.split()[:5] == ["task", "observes", "acts", "steps", "γ"]
    assert first.split()[:6] == [TASKS[0], "3", "1", "200", "0.975", "3"]
    assert second.startswith(f"  {TASKS[1]}  2 + 1 zeros  1 ")
    assert second.endswith("not evaluated: no such environment")
    assert whole.endswith("GB, drawn in windows of 4 rows.")


def test_tasks_without_data_are_not_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["check", "--tasks", *TASKS])
    assert "looked at with what is recorded of them (--data)" in " ".join(capsys.readouterr().err.split())
