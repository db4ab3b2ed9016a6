"""The tables of recorded data and of fine-tuning are what the script makes of the files."""

from __future__ import annotations

from typing import Any

from recorded import ALONE, PAGE, RESULTS, TUNED, kept_results, page, tables


def evaluated(*means: float, every: int) -> list[dict[str, Any]]:
    return [{"agent_steps": number * every, "returns": [mean, mean]} for number, mean in enumerate(means)]


def run(recipe: str, *means: float, **config: Any) -> dict[str, Any]:
    """A run whose evaluations came to these means, every 250 agent steps of two environment steps."""
    told = {"env": "Pendulum-v1", "env_kwargs": [], "preset": "tiny", "overrides": [], "seed": 0, **config}
    steps = 250 * (len(means) - 1)
    return {
        "recipe": recipe,
        "config": told,
        "agent_steps": steps,
        "environment_steps": 2 * steps,
        "evaluations": evaluated(*means, every=250),
        "final_mean_return": means[-1],
    }


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_fine_tuning_stands_beside_the_same_seed_from_nothing() -> None:
    heavy: dict[str, Any] = {"env_kwargs": ["g=14"]}
    results = {
        "other.json": run("tdmpc2", -1400, -200, **heavy, seed=1),
        "light.json": run("tdmpc2", -1300, -200),
        "heavy.json": run("tdmpc2", -1400, -600, -249, -300, **heavy),
        "tuned.json": run("tdmpc2-finetune", -900, -250, -251, **heavy, started_from="runs/light-0"),
        "never.json": run("tdmpc2-finetune", -900, -251, **heavy, started_from="light-2", seed=2),
    }
    first, second = rows(tables(results).partition("\n\n")[2])
    assert first == [
        "TD-MPC2, Pendulum-v1 g=14, `tiny`", "0", "light-0", "−250.0", "500", "1,000", "−251.0", "−300.0",
        "tuned.json, heavy.json",
    ]  # fmt: skip
    assert second[4:] == ["not in 500", "", "−251.0", "", "never.json"]


def test_an_agent_of_recordings_stands_by_task_on_the_way_from_random_to_the_runs_own() -> None:
    by_task = {
        "Pendulum-v1": {
            "returns": [-300.0, -500.0],
            "random_returns": [-1200.0],
            "behaviour_returns": [-900.0, -100.0],
            "runs": {"p-0": -200.0},
        },
        "robot": {"returns": [3.0], "random_returns": [1.0], "behaviour_returns": [2.0], "runs": {}},
    }
    offline = {**run("tdmpc2-offline", -400, env=""), "clock": "updates", "updates": 6000, "by_task": by_task}
    mixed = {**run("tdmpc2-finetune", -400, started_from="x"), "by_task": by_task}
    first, second = rows(tables({"mt.json": offline, "mixed.json": mixed}).partition("\n\n")[0])
    assert first == [
        "TD-MPC2, Pendulum-v1", "0", "6,000", "−400.0", "−500.0", "−200.0", "−1,200.0", "80%", "mt.json",
    ]  # fmt: skip
    assert second[3:] == ["3.0", "2.0", "", "1.0", "", "mt.json"]


def test_the_page_holds_the_tables_of_the_files() -> None:
    text = PAGE.read_text()
    assert page(text, kept_results(RESULTS)) == text
    assert " | ".join(ALONE) in text
    assert " | ".join(TUNED) in text
