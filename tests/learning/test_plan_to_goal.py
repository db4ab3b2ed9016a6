"""What a JEPA learns without rewards: the run that shows it (slow), and what the recorded files show."""

from __future__ import annotations

import json

import pytest
from plan_to_goal import RESULTS, record

SEEDS = (0, 1, 2)
RECORDED = (0, 1, 2, 3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_jepa_plans_to_goal_images_and_a_collapsed_one_does_not(seed: int) -> None:
    check(json.loads(record(seed).read_text()))


@pytest.mark.parametrize("seed", RECORDED)
def test_a_recorded_seed_learned(seed: int) -> None:
    result = json.loads((RESULTS / f"jepa-point-room-seed{seed}.json").read_text())
    assert result["seed"] == seed
    assert {"commit", "versions", "machine", "config"} <= set(result)
    check(result)


def check(result: dict) -> None:
    trained, collapsed = result["sigreg"], result["none"]
    assert trained["training"]["z_std"] > 0.7
    assert trained["probe_r2"] > 0.7
    assert trained["dense"]["success"] >= 0.6
    assert trained["dense"]["success"] >= result["random"]["success"] + 0.4
    assert trained["dense"]["success"] >= collapsed["dense"]["success"] + 0.4
    # Replanned at every step, a plan that only has to end at the goal is in no haste; executed whole, it gets there.
    assert trained["dense"]["success"] >= trained["terminal_first_action"]["success"] + 0.2
    assert trained["terminal_whole_plan"]["success"] >= 0.6
    assert collapsed["training"]["z_std"] < 0.1
    assert collapsed["probe_r2"] < trained["probe_r2"] - 0.2
    assert collapsed["training"]["loss_prediction"] < trained["training"]["loss_prediction"]  # which hides the collapse
    assert result["vcreg"]["dense"]["success"] >= collapsed["dense"]["success"] + 0.4
