"""Checkpoints: the newest and the best stay, each appears whole, and what a killed run left is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldloom_rl.training.checkpoint import Checkpoints, agent_steps_of


def write(folder: Path) -> None:
    (folder / "weights").write_text("here")


def saved(directory: Path, scores: list[float | None], keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(directory, keep)
    for place, score in enumerate(scores, 1):
        checkpoints.save(10 * place, 3 * place, write, score)
    return checkpoints


@pytest.mark.parametrize(
    ("scores", "steps", "best"),
    [
        ([1.0, 9.0, 2.0, 3.0, 4.0], [20, 40, 50], 20),
        ([1.0, 2.0, 3.0, 9.0], [30, 40], 40),
        ([5.0, 1.0, 5.0, 2.0, 2.0], [30, 40, 50], 30),
        ([None, None, None, 1.0], [30, 40], 40),
    ],
)
def test_the_newest_two_and_the_best_stay(
    scores: list[float | None], steps: list[int], best: int, tmp_path: Path
) -> None:
    checkpoints = saved(tmp_path, scores)
    assert [agent_steps_of(folder) for folder in checkpoints.all()] == steps
    assert agent_steps_of(checkpoints.best()) == best
    assert checkpoints.latest() == checkpoints.all()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name for folder in checkpoints.all()]


def test_a_run_that_was_never_evaluated_has_no_best_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint that was evaluated"):
        saved(tmp_path, [None, None, None]).best()
    with pytest.raises(FileNotFoundError, match="stopped before its first one"):
        Checkpoints(tmp_path / "none").latest()


def test_the_same_state_is_written_once_and_more_updates_are_another(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, [1.0])

    def fail(folder: Path) -> None:
        raise AssertionError("written again")

    assert checkpoints.save(10, 3, fail, 7.0) == checkpoints.latest()
    checkpoints.save(10, 4, write, 1.0)
    assert [folder.name for folder in checkpoints.all()] == ["step_000000010_000000003", "step_000000010_000000004"]


def test_what_a_killed_run_left_is_removed_and_is_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, [1.0, 2.0])
    for name in (".step_000000030_000000009-x1y2", ".step_000000001_000000001-dropped"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("half")
    assert len(checkpoints.all()) == 2
    checkpoints.clean()
    assert sorted(tmp_path.iterdir()) == checkpoints.all()


def test_a_checkpoint_whose_writing_fails_leaves_nothing(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, [1.0])

    def fail(folder: Path) -> None:
        write(folder)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.save(20, 6, fail)
    assert sorted(tmp_path.iterdir()) == checkpoints.all()
    assert len(checkpoints.all()) == 1
