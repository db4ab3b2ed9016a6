"""The tables of what was learned in dreams, and by exploring, are what the script makes of the files."""

from __future__ import annotations

from typing import Any

from dreams import EXPLORED, PAGE, PPO, at, explored_row, page, ppo_row, results_of


def test_a_row_of_ppo_has_the_means_of_its_first_and_last_episodes() -> None:
    played = [{"dreamt_steps": 0, "returns": [9.0, 11.0]}, {"dreamt_steps": 60_000, "returns": [400.0, 500.0]}]
    told = {"env": "CartPole-v1", "seed": 1, "played": played, "random_returns": [20.0]}
    assert ppo_row("f.json", told) == ["DreamerV3, CartPole-v1", "1", "60,000", "450.0", "10.0", "", "20.0", "f.json"]
    assert ppo_row("f.json", {**told, "policy_prior_returns": [480.0]})[0] == "TD-MPC2, CartPole-v1"


def test_a_row_of_exploring_tells_cells_and_the_first_success() -> None:
    def run(share: float, *successes: int) -> dict[str, Any]:
        first = successes[0] if successes else None
        return {"coverage": {"500": 0.1, "1000": share}, "first_success": first, "successes": successes, "episodes": 40}

    result = {
        "seed": 2,
        "exploring": run(0.9, 700),
        "reward_alone": run(0.5),
        "then_for_the_reward": run(0.6, 1200, 1300),
    }
    assert explored_row("f.json", result) == ["2", "90%", "700", "50%", "none", "2 of 40", "1,200", "f.json"]
    assert at(run(1.0)) == "none"


def test_the_page_holds_the_tables_of_the_files() -> None:
    text = PAGE.read_text()
    assert page(text) == text
    for headings in (PPO, EXPLORED):
        assert " | ".join(headings) in text


def test_recorded_runs_that_explored_saw_more_and_met_the_reward_more_often() -> None:
    results = list(results_of("explore-door").values())
    assert [result["seed"] for result in results] == [0, 1, 2]
    assert all({"commit", "tree", "versions", "machine"} <= set(result) for result in results)
    cells, met = (
        [sum(measure(result[kind]) for result in results) for kind in ("exploring", "reward_alone")]
        for measure in (lambda run: list(run["coverage"].values())[-1], lambda run: bool(run["successes"]))
    )
    assert cells[0] > cells[1]
    assert met[0] > met[1]
