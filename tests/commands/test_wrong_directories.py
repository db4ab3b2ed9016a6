"""What is done to a run is refused for what is no run, in one sentence that names the path."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from worldloom_rl import cli
from worldloom_rl.commands.recipes import RECIPES
from worldloom_rl.models.tdmpc2 import TDMPC2
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.recipes import tdmpc2

COMMANDS = ("eval", "imagine", "play", "report", "resume")


def saved_model(path: Path) -> None:
    config = find_preset("tdmpc2:tiny")[1]
    TDMPC2(config, *TDMPC2.default_specs()).save_pretrained(path)


def holding(content: str | bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        (path / "config.json").write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def run_of(recipe: object = "tdmpc2", without: str = "", **changes: object) -> str:
    config = {**dataclasses.asdict(tdmpc2.Config(env="Pendulum-v1")), **changes}
    config.pop(without, None)
    return json.dumps({"recipe": recipe, "config": config})


WRONG: dict[str, Callable[[Path], None]] = {
    "a saved model": saved_model,
    "a path that does not exist": lambda path: None,
    "a file": lambda path: path.write_text("{}") and None,
    "an empty directory": lambda path: path.mkdir(),
    "a directory of that name": lambda path: (path / "config.json").mkdir(parents=True),
    "an empty file": holding(""),
    "no JSON": holding("recipe: tdmpc2"),
    "no text": holding(b"\xff\xfe\x00{"),
    "JSON cut off": holding(run_of()[:-9]),
    "a list": holding("[]"),
    "a number": holding("3"),
    "null": holding("null"),
    "an object of something else": holding('{"name": "x"}'),
    "a recipe that is no name": holding(run_of(recipe=["tdmpc2"])),
    "a recipe that nobody knows": holding(run_of(recipe="tdmpc3")),
    "no configuration": holding('{"recipe": "tdmpc2"}'),
    "a configuration that is a list": holding('{"recipe": "tdmpc2", "config": []}'),
    "an unknown option": holding(run_of(stesp=3)),
    "an option that is missing": holding(run_of(without="env")),
    "an option of another kind": holding(run_of(steps="many")),
    "overrides that are a number": holding(run_of(overrides=3)),
    "an option out of range": holding(run_of(steps=0)),
    "a run that was stopped before its first checkpoint": holding(run_of()),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_run_is_refused_in_a_sentence(
    kind: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldloom_rl.commands.play.require_installed", lambda *given, **named: None)  # its extra
    path = tmp_path / "a run [bold]"  # a space, and what would be markup
    WRONG[kind](path)
    before = sorted(path.rglob("*")) if path.is_dir() else None
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, str(path)])
    assert stopped.value.code == 2
    told = capsys.readouterr()
    assert told.err.startswith("worldloom: ")
    assert "Traceback" not in told.err
    if kind != "an option out of range":
        assert str(path) in told.err
    assert told.err.count("\n") <= 2
    assert before == (sorted(path.rglob("*")) if path.is_dir() else None)  # nothing was written or removed


def test_every_recipe_by_name_is_the_one_of_that_name() -> None:
    from worldloom_rl.commands.recipes import find_recipe

    for name in RECIPES:
        assert find_recipe(name).name == name
    with pytest.raises(ValueError, match="no recipe 'tdmpc3'"):
        find_recipe("tdmpc3")
