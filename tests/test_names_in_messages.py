"""A message or docstring that names a place in the package names one that exists."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import worldloom_rl

ROOT = Path(worldloom_rl.__file__).parent
PLACE = re.compile(r"worldloom_rl(?:\.[A-Za-z_]\w*)+")


def named_places() -> dict[str, str]:
    """Every dotted name in a string of the package, with a file that holds it."""
    found: dict[str, str] = {}
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for place in PLACE.findall(node.value):
                    found.setdefault(place, str(file.relative_to(ROOT)))
    return found


def exists(place: str) -> bool:
    module, names = place, []
    while module:
        try:
            here = importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            names.insert(0, name)
            continue
        for name in names:
            if not hasattr(here, name):
                return False
            here = getattr(here, name)
        return True
    return False


@pytest.mark.parametrize(("place", "file"), sorted(named_places().items()))
def test_a_place_that_is_named_exists(place: str, file: str) -> None:
    assert exists(place), f"{file} names {place}, which does not exist."


def test_a_place_that_does_not_exist_is_noticed() -> None:
    assert exists("worldloom_rl.envs.make_env")
    assert not exists("worldloom_rl.make_envs")
