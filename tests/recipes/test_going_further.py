"""A run goes further than it was told, or back to an earlier checkpoint, as if it had been told so at first."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_resume import FAMILIES, make, recorded, weights
from torch import Tensor

from worldloom_rl import cli
from worldloom_rl.recipes import jepa
from worldloom_rl.training import loop
from worldloom_rl.training.checkpoint import agent_steps_of
from worldloom_rl.training.run_directory import RunDirectory


def result_of(run: RunDirectory) -> dict[str, Any]:
    return json.loads((run.path / "result.json").read_text())  # type: ignore[no-any-return]


def evaluations_in(run: RunDirectory) -> dict[str, list[tuple[int, float]]]:
    """Steps and returns of the evaluations, as each of the files tells them."""
    rows = (run.path / "logs/csv/scalars/evaluation/return.csv").read_text().split()
    table = [line.split(",") for line in (run.path / "metrics.csv").read_text().splitlines()]
    column = table[0].index("evaluation/return")
    board = EventAccumulator(str(run.path / "logs" / "tensorboard")).Reload()
    return {
        "csv": [(int(row.split(",")[0]), float(row.split(",")[1])) for row in rows],
        "table": [(int(row[0]), float(row[column])) for row in table[1:] if row[column]],
        "tensorboard": [(event.step, event.value) for event in board.Scalars("evaluation/return")],
        "result": [
            (each["agent_steps"], sum(each["returns"]) / len(each["returns"])) for each in result_of(run)["evaluations"]
        ],
    }


def assert_told_once(run: RunDirectory) -> None:
    told = evaluations_in(run)
    steps = {name: [step for step, _ in rows] for name, rows in told.items()}
    assert steps["csv"] == steps["tensorboard"] == steps["result"]
    assert sorted(set(steps["csv"])) == steps["table"]
    for (_, logged), (_, board), (_, result) in zip(told["csv"], told["tensorboard"], told["result"], strict=True):
        assert math.isclose(logged, result, rel_tol=1e-6)
        assert math.isclose(board, result, rel_tol=1e-5)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.long] * (name != "tdmpc2")) for name in sorted(FAMILIES)]
)
def test_a_finished_run_that_goes_further_is_one_that_was_told_so_at_first(family: str, tmp_path: Path) -> None:
    place = FAMILIES[family][0]
    shorter, longer = (50, 56) if family == "tdmpc2" else (40, 46)
    expected: dict[int, Tensor] = {}
    recipe, config = make(family, place, tmp_path / "whole", steps=longer, eval_every=shorter // 2)
    whole = loop.train(recorded(recipe, expected, lambda update: False), config)

    found: dict[int, Tensor] = {}
    recipe, config = make(family, place, tmp_path / "further", steps=shorter, eval_every=shorter // 2)
    watched = recorded(recipe, found, lambda update: False)
    run = loop.train(watched, config)
    assert agent_steps_of(run.checkpoints.latest()) == result_of(run)["agent_steps"] == shorter
    loop.resume(watched, run, steps=longer)
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[update], expected[update]) for update in found)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(run).items())
    for told in ("evaluations", "final_returns", "agent_steps", "updates", "config"):
        assert result_of(run)[told] == result_of(whole)[told]
    assert evaluations_in(run) == evaluations_in(whole)
    assert_told_once(run)


# ------------------------------------------------------------------ one short run, copied for each test


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """64 steps of TD-MPC2, checkpoints every 20."""
    recipe, config = make("tdmpc2", "pendulum", tmp_path_factory.mktemp("finished") / "run")
    return loop.train(recipe, config)


@pytest.fixture
def run(finished: RunDirectory, tmp_path: Path) -> RunDirectory:
    return RunDirectory(shutil.copytree(finished.path, tmp_path / "run"))


def resume(run: RunDirectory, *arguments: object) -> None:
    cli.main(["resume", str(run.path), *map(str, arguments)])


def test_a_finished_run_says_so_and_repeats_nothing(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    before, told = result_of(run), evaluations_in(run)
    resume(run)
    assert "has come to its end before" in (out := " ".join(capsys.readouterr().out.split()))
    assert f"Take it further: worldloom resume {run.path} --steps 128" in out
    assert result_of(run) == before
    assert evaluations_in(run) == told
    assert_told_once(run)


@pytest.mark.parametrize("lost", ["result.json", "the last evaluation's checkpoint"])
def test_a_run_that_was_killed_at_its_end_tells_it_once(lost: str, run: RunDirectory) -> None:
    before = result_of(run)
    (run.path / "result.json").unlink()
    if lost != "result.json":
        shutil.rmtree(run.checkpoints.latest())
    resume(run)
    assert result_of(run)["evaluations"] == before["evaluations"]
    assert_told_once(run)


def test_the_best_checkpoint_is_scored_by_an_evaluation_of_its_own_weights_and_can_be_asked_for(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluations = {(each["agent_steps"], each["updates"]): each["returns"] for each in result_of(run)["evaluations"]}
    best = run.checkpoints.best()
    steps, updates = (int(part) for part in best.name.split("_")[1:])
    assert (steps, updates) in evaluations
    cli.main(["eval", str(run.path), "--best", "--episodes", "1"])
    assert f"after {steps} agent steps, 1 episodes" in capsys.readouterr().out


def test_back_to_an_earlier_checkpoint_what_followed_is_gone_and_comes_again(run: RunDirectory) -> None:
    before, told, last = result_of(run), evaluations_in(run), weights(run)
    with pytest.raises(ValueError, match=r"no checkpoint of 7 agent steps; there are those of \[.*, 64\]"):
        loop.resume(make("tdmpc2", "pendulum", run.path)[0], run, start=7)
    resume(run, "--from", 60)
    assert result_of(run)["evaluations"] == before["evaluations"]
    assert evaluations_in(run) == told
    assert all(torch.equal(tensor, last[name]) for name, tensor in weights(run).items())
    for file in (run.path / "logs/csv/scalars").rglob("*.csv"):
        steps = [int(row.split(",")[0]) for row in file.read_text().split()]
        assert steps == sorted(steps)


def test_it_cannot_go_less_far_than_it_is(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((file, file.stat().st_mtime_ns) for file in run.path.rglob("*"))
    for steps, told in ((64, ""), (40, "has gone 64 steps already"), (0, "--steps must be a whole number in [1, ")):
        if told:
            with pytest.raises(SystemExit):
                resume(run, "--steps", steps)
            assert told in capsys.readouterr().err
            assert sorted((file, file.stat().st_mtime_ns) for file in run.path.rglob("*")) == before


def test_a_run_whose_learning_rate_depends_on_its_length_is_refused_to_go_further(tmp_path: Path) -> None:
    config = jepa.Config(
        env="worldloom/PointRoom-v0", steps=2, collect=60, eval_every=100, eval_episodes=1, final_eval_episodes=1,
        overrides=("batch_size=4", "horizon=2"), run_directory=str(tmp_path / "run"),
    )  # fmt: skip
    run = RunDirectory.create(tmp_path / "run", "name", "jepa", config.__dict__)
    run.checkpoints.save(60, 2, lambda folder: None)
    with run.owned():
        pass
    with pytest.raises(ValueError, match="its learning rate falls over all of them"):
        loop.resume(jepa.RECIPE, run, steps=4)
