"""Arguments of an environment's constructor, from a command line to the constructor and into a run's files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worldloom_rl import cli
from worldloom_rl.recipes.dreamerv3 import RECIPE
from worldloom_rl.recipes.options import DreamerV3RunConfig
from worldloom_rl.training.env_arguments import env_arguments
from worldloom_rl.training.loop import read_config
from worldloom_rl.training.run_directory import CONFIG_FILE, RunDirectory


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-9.8", -9.8), ("3", 3), (".5", 0.5), ("+5", 5.0), ("1e-3", 1e-3), ("true", True), ("False", False),
        ("null", None), ("None", None), ("Corridor-v0", "Corridor-v0"), ("a=b", "a=b"), ('"3"', "3"), ("", ""),
        ("[1, 2.5]", [1, 2.5]), ('{"x": [true]}', {"x": [True]}), ("1.2.3", "1.2.3"), ("/a b/c", "/a b/c"),
    ],
)  # fmt: skip
def test_a_value_has_its_type(text: str, value: Any) -> None:
    found = env_arguments([f"name={text}"])["name"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("given", [["gravity"], ["=3"], ["a b=3"], ["x=[1,"], ["x='a'"], ["x=1", "x=2"], ["--x=1"]])
def test_what_is_not_written_so_is_refused(given: list[str]) -> None:
    with pytest.raises(ValueError, match="argument"):
        env_arguments(given)
    with pytest.raises(ValueError, match="argument"):
        DreamerV3RunConfig(env="Pendulum-v1", env_kwargs=tuple(given))


def test_a_run_makes_its_environments_with_them_and_older_runs_have_none(tmp_path: Any) -> None:
    config = DreamerV3RunConfig(env="Pendulum-v1", env_kwargs=("g=2.5",))
    assert config.make_env(1, 0).base_env._env.unwrapped.g == 2.5
    values = json.loads(json.dumps(vars(config) | {"run_directory": str(tmp_path / "run")}))
    directory = RunDirectory.create(str(tmp_path / "run"), "run", "dreamerv3", values)
    assert read_config(RECIPE, directory).env_kwargs == ("g=2.5",)
    file = directory.path / CONFIG_FILE
    kept = json.loads(file.read_text())
    del kept["config"]["env_kwargs"]
    file.write_text(json.dumps(kept))
    assert read_config(RECIPE, directory).env_kwargs == ()


def test_a_command_line_gives_them_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    from worldloom_rl.report import environment_check

    given: dict[str, Any] = {}

    class Report:
        trainable = True

        def text(self) -> str:
            return ""

    monkeypatch.setattr(
        environment_check, "check_environment", lambda name, recipes, **options: given.update(options) or Report()
    )
    cli.main(["check", "LunarLander-v3", "--env-kwargs", "continuous=true", "gravity=-9.8", "--steps", "50"])
    assert given["env_kwargs"] == ("continuous=true", "gravity=-9.8")
