"""Every tutorial runs, with a small budget."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from worldloom_rl.pretrained import registry

FOLDER = Path(__file__).parents[1] / "tutorials"
TUTORIALS = sorted(FOLDER.glob("0*.py"))


def run(tutorial: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that a tutorial leaves; a family that it registers is forgotten afterwards."""
    registry.list_world_models()  # imports all others
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("TUTORIAL_STEPS", str(steps))
    return runpy.run_path(str(tutorial), run_name="__main__")


# The steps end an episode before learning begins, and leave some for it.
@pytest.mark.parametrize(
    ("tutorial", "steps"),
    [pytest.param(*pair, id=pair[0].stem) for pair in zip(TUTORIALS[:4], (115, 60, 24, 65), strict=True)],
)
def test_the_tutorial_runs(
    tutorial: Path, steps: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tutorial, steps, monkeypatch)
    assert "return" in capsys.readouterr().out


def test_a_jepa_plans_in_a_collector_and_draws_its_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUTORIAL_PICTURES", str(tmp_path))
    names = run(TUTORIALS[5], 30, monkeypatch)
    assert "mean distance from the goal" in capsys.readouterr().out
    assert (tmp_path / "plan_to_a_goal_image.png").stat().st_size > 0
    assert not names["episodes"]["next", "done"][:, :-1].any()  # each room is one whole episode
    assert names["episodes"]["next", "done"][:, -1].all()


@pytest.mark.filterwarnings("ignore")
def test_another_librarys_agent_learns_in_a_dream(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("stable_baselines3")
    names = runpy.run_path(str(FOLDER / "learn_in_a_dream.py"))
    names["main"](str(FOLDER.parent / "tests" / "saved_by_0_6" / "run-dreamerv3"), 64)
    assert "return in the true environment: " in capsys.readouterr().out


@pytest.mark.long
def test_recordings_of_two_tasks_become_an_agent_that_goes_on_in_a_third(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    names = run(TUTORIALS[6], 25, monkeypatch)
    said = capsys.readouterr().out
    assert said.count("both, from recordings alone: ") == 2
    assert "with its --action-repeat 1" in said
    assert names["both"].read_config()[1]["steps"] == 50
    config = names["tuned"].read_config()[1]
    assert (config["like"], config["padded_to"], config["started_from"]) == (
        "Pendulum-v1",
        [3, 1],
        str(names["both"].path),
    )


def test_the_tutorials_are_numbered() -> None:
    assert [path.name[:2] for path in TUTORIALS] == ["01", "02", "03", "04", "05", "06", "07"]


@pytest.mark.parametrize("name", ["01_first_world_model", "04_your_environment", "my_environment"])
def test_the_tutorial_is_under_80_lines(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 80


# ---------------------------------------------------------------------- the model of tutorial 05


MODEL, _, USE = TUTORIALS[4].read_text().partition("# %% [markdown]\n# It keeps the contract")


def test_the_added_model_is_whole_in_under_100_lines() -> None:
    assert 'if __name__ == "__main__":' in USE
    assert len(MODEL.splitlines()) < 100


@pytest.mark.long
def test_the_added_model_learns_to_foresee(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(TUTORIALS[4], 480, monkeypatch)
    printed = capsys.readouterr().out
    errors = [float(text) for text in re.findall(r"foreseen ([\d.]+)", printed)]
    assert errors[-1] < errors[0] / 2
    assert "return" in printed


ASK = """
import sys, torch
from worldloom_rl import AutoWorldModel, list_world_models
directory, weights = sys.argv[1:]
assert "my_package" not in sys.modules
model = AutoWorldModel.from_pretrained(directory)
assert type(model).__module__ == "my_package.corrector", type(model)
assert all(torch.equal(value, model.state_dict()[name]) for name, value in torch.load(weights).items())
assert {"corrector:tiny", "corrector:small", "tdmpc2:5m"} <= set(list_world_models()), list_world_models()
fresh = AutoWorldModel.from_pretrained("corrector:tiny")
assert type(fresh) is type(model) and fresh.config == model.config
try:
    AutoWorldModel.from_pretrained("corector:tiny")
except ValueError as error:
    assert "Did you mean 'corrector'" in str(error), error
else:
    raise AssertionError("no error")
"""


def test_the_added_model_is_found_in_a_distribution_outside_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the entry point that the tutorial writes down, also when only a saved directory names the family."""
    registry.list_world_models()
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    names = runpy.run_path(str(TUTORIALS[4]), run_name="my_package.corrector")
    model = names["Corrector"](names["CorrectorConfig"](64, 64), *names["Corrector"].default_specs())
    model.save_pretrained(tmp_path / "model")
    torch.save(model.state_dict(), tmp_path / "weights.pt")

    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "corrector.py").write_text(MODEL)
    group, (name, module) = re.findall(r'entry-points\."(.*)"\]', MODEL), re.findall(r'(\w+) = "(my_.*)"', MODEL)[0]
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group[0]}]\n{name} = {module}\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "ignore", "-c", ASK, str(tmp_path / "model"), str(tmp_path / "weights.pt")]
    asked = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    assert asked.returncode == 0, asked.stderr
