"""`check` over the environments that people have: each is looked at, or refused in a sentence that names it."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from worldloom_rl.commands.recipes import find_recipe
from worldloom_rl.report import environment_check, random_play
from worldloom_rl.report.environment_report import EnvironmentReport, FamilyReport

# Packages that register environments; `slow` looks at one of each class of those that are installed.
PACKAGES = ("gymnasium", "minigrid", "highway_env", "gymnasium_robotics", "metaworld")
CHEAP = ("gymnasium.envs.classic_control", "gymnasium.envs.toy_text")
REFUSED = {"Blackjack-v1": "Blackjack-v1: the observation 'observation' is Tuple(Discrete(32), Discrete(11)"}


def identifiers(*packages: str) -> list[str]:
    """The last registered one of each class in these packages."""
    found: dict[str, str] = {}
    for identifier, spec in gymnasium.registry.items():
        entry = spec.entry_point
        place = entry if isinstance(entry, str) else f"{getattr(entry, '__module__', '')}:{entry}"
        if place.startswith(packages):
            found[place] = identifier
    return list(found.values())


def report_of(identifier: str, *recipes: str) -> EnvironmentReport:
    limit = 100 if gymnasium.spec(identifier).max_episode_steps is None else None
    return environment_check.check_environment(identifier, [find_recipe(name) for name in recipes], time_limit=limit)


@pytest.mark.parametrize("identifier", identifiers(*CHEAP))
def test_the_small_environments_of_gymnasium_are_looked_at(identifier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def untried(recipe: Any, config: Any) -> FamilyReport:
        return FamilyReport(recipe.name, {}, {}, capacity=1, run_rows=1)

    monkeypatch.setattr(environment_check, "family_report", untried)
    monkeypatch.setattr(random_play, "_FEWEST_STEPS", 20)
    monkeypatch.setattr(random_play, "_MOST_STEPS", 40)
    report = report_of(identifier, "tdmpc2")
    if identifier in REFUSED:
        assert report.refusal is not None
        assert report.refusal.startswith(REFUSED[identifier])
    else:
        assert report.refusal is None
        assert report.trainable
        assert report.play is not None
    assert identifier in report.text()


def test_an_environment_whose_package_is_missing_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)  # as where it is not installed
    with pytest.raises(ImportError, match=r"^gymnasium cannot make 'phys2d/CartPole-v1': .*jax.*$"):
        report_of("phys2d/CartPole-v1", "tdmpc2")


def told_of(identifier: str, package: str) -> str:
    """The report, or the sentence that refuses; the name alone where the environment's own code is broken."""
    try:
        return report_of(identifier, "dreamerv3", "tdmpc2", "tokens").text()
    except ImportError as error:
        return str(error)
    except AssertionError as error:  # of robots that a newer MuJoCo reads otherwise
        file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        return identifier if package in file.parts else "an error of ours"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the packages
@pytest.mark.parametrize("package", PACKAGES)
def test_whatever_is_installed_is_looked_at_or_refused_by_name(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(package)
    gymnasium.register_envs(importlib.import_module(package))
    monkeypatch.setattr(random_play, "_MOST_SECONDS", 2.0)
    for identifier in identifiers(package):
        assert identifier in told_of(identifier, package)


@pytest.mark.slow
def test_every_task_of_deepmind_controls_benchmark_is_looked_at() -> None:
    suite = pytest.importorskip("dm_control.suite")
    for domain, task in suite.BENCHMARKING:
        report = environment_check.check_environment(f"dmc:{domain}-{task}", [find_recipe("tdmpc2")])
        assert report.trainable, report.text()
