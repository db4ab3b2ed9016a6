"""The public names of the package and of the families: all there, and imported when they are asked for."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import worldloom_rl

PACKAGES = ["worldloom_rl", *(f"worldloom_rl.models.{name}" for name in (
    "dreamerv3", "frozen_jepa", "jepa", "tdmpc2", "tokens", "vjepa2",
))]  # fmt: skip


def declared(package: str) -> set[str]:
    """The names that type checkers see: those that the package's file imports as themselves."""
    tree = ast.parse(Path(str(importlib.import_module(package).__file__)).read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names if alias.asname == alias.name}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_shown(package: str) -> None:
    module = importlib.import_module(package)
    assert declared(package) <= set(dir(module))
    for name in declared(package):
        assert getattr(module, name).__name__ == name


def test_the_names_of_the_first_page_are_public() -> None:
    assert {"AutoWorldModel", "ImaginationEnv", "MPPIPlanner", "CEMPlanner", "WorldModel", "list_world_models"} <= set(
        dir(worldloom_rl)
    )


def test_a_submodule_is_imported_when_it_is_asked_for() -> None:
    assert worldloom_rl.keys.ACTION == "action"


@pytest.mark.parametrize("name", ["AutoWorldModell", "no module", "__wrapped__", "a.b"])
def test_what_is_not_there_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'worldloom_rl' has no attribute '{name}'"):
        getattr(worldloom_rl, name)


LIGHT = {
    "the package": "import worldloom_rl",
    "the names of all presets": "from worldloom_rl import list_world_models; assert list_world_models('tdmpc2:tiny')",
    "a configuration": "from worldloom_rl.models.tdmpc2 import TDMPC2Config; TDMPC2Config.from_size('tiny', horizon=5)",
    "every family": "; ".join(f"import {package}" for package in PACKAGES),
    "keys, extras and files": "import worldloom_rl.keys, worldloom_rl.extras, worldloom_rl.atomic",
}


def imported(work: str, *slow: str) -> list[str]:
    """Which of these modules a fresh interpreter has imported after that work."""
    program = f"import sys; {work}; print(*sorted({set(slow)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("work", LIGHT.values(), ids=LIGHT)
def test_what_needs_no_tensor_imports_neither_torch_nor_torchrl(work: str) -> None:
    assert imported(work, "torch", "torchrl", "tensordict", "numpy") == []


def test_the_public_names_import_nothing_slow_beside_torchrl() -> None:
    slow = ("scipy.stats", "matplotlib.pyplot", "transformers", "vector_quantize_pytorch", "wandb")
    before = imported("import torchrl.envs, torchrl.collectors", *slow)
    assert imported("import worldloom_rl; [getattr(worldloom_rl, name) for name in dir(worldloom_rl)]", *slow) == before
