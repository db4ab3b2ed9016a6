"""The table of results is what the script makes of the files, with the published bands beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from keep_run import compared
from table import HEADINGS, PAGE, RESULTS, figure, groups_of, kept_files, page, table

from worldloom_rl.report.run_results import RunGroup, read_result


def written(directory: Path, recipe: str, env: str, seed: int, *, changes: dict[str, Any]) -> Path:
    """A result of three evaluations, after 0, 5,000 and 10,000 agent steps of two environment steps."""
    config = {"env": env, "preset": "tiny", "overrides": [], "seed": seed, "num_envs": 1, "pixels": False}
    evaluations = [
        {"agent_steps": steps, "returns": [value, value + 2.0], "lengths": [500, 500]}
        for steps, value in ((0, 1.0), (5_000, 60.0), (10_000, 180.0 + seed))
    ]
    result: dict[str, Any] = {
        "recipe": recipe,
        "config": config,
        "agent_steps": 10_000,
        "environment_steps": 20_000,
        "training_seconds": 71.6,
        "evaluations": evaluations,
        "final_returns": evaluations[-1]["returns"],
        "training_returns": [float(number) for number in range(20)],  # that of number n ends after 1000 (n + 1) steps
        "random_mean_return": -3.25,
        "threshold": None,
        **changes,
    }
    file = directory / f"{recipe}-{seed}.json"
    file.write_text(json.dumps(result))
    run = read_result(file)
    result["compared"] = compared(run, RunGroup("", (run,)).official, result)
    file.write_text(json.dumps(result))
    return file


def cells(files: list[Path]) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table(files).splitlines()[2:]]


def test_training_episodes_stand_beside_the_band_that_was_published_of_them(tmp_path: Path) -> None:
    file = written(tmp_path, "dreamerv3", "dmc:cartpole-swingup", 1, changes={})
    first, last = cells([file])
    name = "DreamerV3, dmc:cartpole-swingup, `tiny`"
    # 63 [47 to 82] and 189 [137 to 213] were published; episodes 6 to 10 and 16 to 20 ended in the 5,000 steps before.
    assert first == [
        name, "1", "10,000", "7.0", "training", "62.8", "47.4 to 82.1", "", "−3.2", "", file.name,
    ]  # fmt: skip
    assert last == [
        name, "1", "20,000", "17.0", "training", "188.9", "137.1 to 213.2", "", "−3.2", "72", file.name,
    ]  # fmt: skip


def test_evaluations_stand_where_evaluations_were_published_or_nothing_was(tmp_path: Path) -> None:
    file = written(tmp_path, "tdmpc2", "CartPole-v1", 0, changes={"threshold": 475.0})
    (row,) = cells([file])
    assert row[2:8] == ["20,000", "181.0", "evaluation", "", "", "475.0"]
    assert [row[3:7] for row in cells([written(tmp_path, "tdmpc2", "dmc:walker-run", 2, changes={})])] == [
        ["61.0", "evaluation", "", ""],  # nothing was published so early
        ["183.0", "evaluation", "", ""],
    ]


def test_a_picture_has_a_panel_for_each_task_with_published_scores(tmp_path: Path) -> None:
    files = [written(tmp_path, "dreamerv3", "dmc:cartpole-swingup", seed, changes={}) for seed in (0, 1)]
    files.append(written(tmp_path, "tdmpc2", "CartPole-v1", 0, changes={}))
    tasks = groups_of(files)
    assert {task: [len(group.runs) for group in groups] for task, groups in tasks.items()} == {
        "dmc:cartpole-swingup": [2]
    }
    drawn = figure(tasks)
    (axes,) = drawn.axes
    assert axes.get_title() == "dmc:cartpole-swingup"
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "DreamerV3 tiny", "published: DreamerV3 12M at train_ratio 512, 5 seeds, training episodes",
    ]  # fmt: skip


def test_panels_without_a_task_stay_empty(tmp_path: Path) -> None:
    names = ("cartpole-swingup", "cup-catch", "finger-spin", "walker-run")
    files = [written(tmp_path, "tdmpc2", f"dmc:{name}", seed, changes={}) for seed, name in enumerate(names)]
    drawn = figure(groups_of(files))
    assert [axes.get_title() for axes in drawn.axes if axes.axison] == [f"dmc:{name}" for name in names]


def test_the_page_holds_the_table_of_the_files() -> None:
    text = PAGE.read_text()
    assert page(text, kept_files(RESULTS)) == text
    assert " | ".join(HEADINGS) in text


@pytest.mark.parametrize("file", kept_files(RESULTS), ids=lambda file: file.stem)
def test_a_kept_result_names_the_tree_that_made_it(file: Path) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", json.loads(file.read_text())["tree"])
