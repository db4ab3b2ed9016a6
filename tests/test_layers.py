"""A module imports only from levels above its own (DESIGN, section 2), so that every file can be read downward."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import worldloom_rl

ROOT = Path(worldloom_rl.__file__).parent

# What imports nothing of the rest, each in sight of those before it.
BASE = ("keys", "noise", "ranks", "config", "extras", "lazy", "gymnasium_names", "atomic", "torchrl_insides",
        "functional", "kernels")  # fmt: skip

# Module or folder → level. Those of one level do not import each other, except in the order of ORDERED.
LEVELS = {
    **dict.fromkeys(BASE, 0),
    **dict.fromkeys(("nn", "latents", "specs", "tasks"), 1),
    **dict.fromkeys(("pretrained", "world_model"), 2),
    **dict.fromkeys(("auto", "envs", "planners", "objectives", "data"), 3),
    **dict.fromkeys(("models", "training"), 4),
    **dict.fromkeys(("recipes", "play", "report", "testing", "commands", "cli", "__main__"), 5),
}
# Inside these levels a module may import those that stand before it.
ORDERED = (
    BASE,
    ("specs", "nn", "latents", "tasks"),
    ("pretrained", "world_model"),
    ("envs", "planners", "objectives", "data", "auto"),
    ("testing", "play", "report", "recipes", "commands", "cli", "__main__"),
)

MODULES = sorted(ROOT.rglob("*.py"))


def imported_parts(source: str, package: tuple[str, ...]) -> set[tuple[str, ...]]:
    """The modules of worldloom_rl that the source imports, as paths below the package; () is the package itself.

    Args:
        package: where relative imports of the source start, below worldloom_rl.
    """
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {tuple(name[1:]) for name in names if name[0] == "worldloom_rl"}
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                base = ["worldloom_rl", *package[: len(package) - node.level + 1], *base]
            if base[:1] == ["worldloom_rl"]:
                # `from worldloom_rl import keys` names a module, `from worldloom_rl.keys import ACTION` does not.
                found |= {tuple(base[1:]) or ((alias.name,) if is_module(alias.name) else ()) for alias in node.names}
    return found


def is_module(name: str) -> bool:
    return (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()


def may_import(importer: str, imported: str) -> bool:
    if importer == imported or LEVELS[imported] < LEVELS[importer]:
        return True
    order = next((names for names in ORDERED if importer in names and imported in names), ())
    return bool(order) and order.index(imported) < order.index(importer)


def test_every_module_has_a_level() -> None:
    unknown = {path.relative_to(ROOT).with_suffix("").parts[0] for path in MODULES} - {*LEVELS, "__init__"}
    assert not unknown, f"{sorted(unknown)} have no level: say in DESIGN, section 2, and in LEVELS where they stand."


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_only_from_levels_above_it(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("__init__",):
        return  # the public names, from everywhere
    wrong = []
    for imported in sorted(imported_parts(path.read_text("utf-8"), parts[:-1])):
        if not imported:
            wrong.append("worldloom_rl itself, whose names live in modules")
        elif not may_import(parts[0], imported[0]):
            wrong.append(f"{'.'.join(imported)} (L{LEVELS[imported[0]]})")
    assert not wrong, f"{'.'.join(parts)} (L{LEVELS[parts[0]]}) imports {', '.join(wrong)}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import worldloom_rl.data.replay as r", {("data", "replay")}),
        ("from worldloom_rl.nn.mlp import mlp", {("nn", "mlp")}),
        ("from worldloom_rl import keys, data", {("keys",), ("data",)}),
        ("from worldloom_rl import make_env", {()}),
        ("def f():\n    from worldloom_rl import cli_that_is_none, keys", {(), ("keys",)}),
        ("from .mlp import mlp", {("nn", "mlp")}),
        ("from ..keys import ACTION", {("keys",)}),
        ("import torch\nfrom os import path", set()),
    ],
)
def test_imports_are_found_in_every_form(source: str, expected: set[tuple[str, ...]]) -> None:
    assert imported_parts(source, ("nn",)) == expected


def test_levels_and_orders_are_told_apart() -> None:
    assert may_import("data", "keys")
    assert may_import("world_model", "config")
    assert may_import("cli", "recipes")
    assert not may_import("config", "world_model")
    assert not may_import("keys", "data")
    assert not may_import("planners", "data")
    assert not may_import("recipes", "cli")
