"""A stock PPO in the dream of a trained model: the script that tries it, and what the files show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_learning import RESULTS

pytest.importorskip("stable_baselines3")
from ppo_in_a_dream import DREAMS, EPISODES, SETTINGS, learned, learned_by_observations

SAVED = Path(__file__).parents[1] / "saved_by_0_6"


@pytest.mark.filterwarnings("ignore")
def test_ppo_learns_in_a_runs_dream_and_is_tried_in_its_environment() -> None:
    result = learned(SAVED / "run-tdmpc2", steps=(1,))  # a round of all dreams
    assert [point["dreamt_steps"] for point in result["played"]] == [0, DREAMS * SETTINGS["n_steps"]]
    before, after = (point["returns"] for point in result["played"])
    assert len(before) == len(after) == len(result["policy_prior_returns"]) == EPISODES
    assert before != after


@pytest.mark.filterwarnings("ignore")
def test_it_learns_from_dreamt_observations_too() -> None:
    result = learned_by_observations(SAVED / "run-dreamerv3", steps=64)
    assert [len(point["returns"]) for point in result["played"]] == [10, 10] == 2 * [len(result["random_returns"])]


@pytest.mark.parametrize("file", sorted(RESULTS.glob("ppo-in-a-dream-*.json")), ids=lambda file: file.stem)
def test_a_recorded_ppo_became_better_than_random_actions(file: Path) -> None:
    result = json.loads(file.read_text())
    assert {"commit", "tree", "versions", "machine", "config"} <= set(result)
    means = [sum(point["returns"]) / len(point["returns"]) for point in result["played"]]
    assert means[-1] > means[0]
    assert means[-1] > sum(result["random_returns"]) / len(result["random_returns"])
