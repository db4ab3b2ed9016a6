"""Options that do not fit are refused, each with its name."""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

import pytest
import torch
from analytic_model import plan_from, seeded
from problems import PLANNERS, SMALL, pushed, quadratic

from worldloom_rl.planners import CEMPlanner, MPPIPlanner
from worldloom_rl.planners.options import PlanKeywords, PlanOptions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"num_elites": 513}, "num_elites 513 must be between 1 and num_samples 512"),
        ({"num_elites": 0}, "num_elites 0 must be between 1 and num_samples 512"),
        ({"num_policy_trajectories": 513}, "num_policy_trajectories 513 must be between 0 and num_samples 512"),
        ({"num_policy_trajectories": 24}, "needs a policy_prior; give one, or set it to 0"),
        ({"min_std": 3.0}, "0 <= min_std <= max_std, got 3.0 and 2.0"),
        ({"min_std": -0.1}, "0 <= min_std <= max_std"),
        ({"floor": 1.5}, r"floor is a share of probability mass in \[0, 1\], got 1.5"),
    ],
)
@PLANNERS
def test_impossible_numbers_stop_at_construction_and_are_named(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(quadratic(), **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_mean": [0.0, 1.0]}, "init_mean must be one number or 3, one a flat action dimension; got 2"),
        ({"init_std": 5.0}, r"init_std must be in \[0.0, 2.0\], got 5.0"),
        ({"low": -3.0}, r"low must be in \[-1.0, 1.0\], got -3.0"),
        ({"low": 0.5, "high": 0.0}, "low must not exceed high, got 0.5 and 0.0"),
        ({"momentum": [0.0, 0.0, 1.5]}, r"momentum must be in \[0.0, 1.0\]"),
        ({"execute": 5}, r"A plan of 4 actions \(horizon\) cannot give 5 \(execute\)"),
        ({"keep_elites": 5}, "keep_elites 5 must be between 0 and num_elites 4"),
        ({"keep_elites": 4, "num_samples": 4}, "4 kept elites leave none to be drawn"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        CEMPlanner(pushed(), **{**SMALL, **options})


def test_cem_momentum_is_a_share_below_one():
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.0"):
        CEMPlanner(quadratic(), momentum=1.0)


def test_mppi_refuses_a_negative_temperature_and_weighs_all_elites_the_same_at_zero():
    with pytest.raises(ValueError, match="temperature must not be negative"):
        MPPIPlanner(quadratic(), temperature=-1.0)
    planner = MPPIPlanner(quadratic(), horizon=2, num_samples=8, num_elites=4, temperature=0.0)
    plan = plan_from(planner, torch.zeros(1, 2), seeded())
    assert plan.iterations[0].score.tolist() == [[0.25] * 4]


def test_the_typed_keywords_are_the_fields_of_the_options():
    typed = get_type_hints(PlanKeywords)
    assert list(typed) == [field.name for field in fields(PlanOptions)]
    assert typed == get_type_hints(PlanOptions)


@PLANNERS
def test_an_unknown_option_is_named(kind):
    with pytest.raises(TypeError, match="horizont"):
        kind(quadratic(), horizont=3)
