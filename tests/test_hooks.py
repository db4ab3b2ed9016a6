"""The hooks of a commit check what .ci/run checks."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
STRICT = {
    "keys", "noise", "config", "extras", "lazy", "atomic", "auto", "functional", "kernels", "specs", "nn", "latents",
    "world_model", "pretrained", "envs", "planners", "objectives", "data", "tasks", "torchrl_insides", "ranks",
    "gymnasium_names", "play",
}  # fmt: skip


def test_the_hooks_check_style_and_types_as_ci_does() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"] for hook in repository["hooks"]]
    for check in ("ruff check", "ruff format", "mypy worldloom_rl tests/benchmarks"):
        assert f"-m {check}" in script
        assert any(entry.startswith(f"python -m {check}") for entry in entries)


def test_types_are_strict_everywhere_but_in_the_parts_that_are_named() -> None:
    settings = (ROOT / "pyproject.toml").read_text().split("[tool.mypy]\n")[1].split("[tool.pytest")[0]
    assert "strict = true" in settings.split("[[tool.mypy.overrides]]")[0]
    named = set(re.findall(r'"worldloom_rl\.(\w+)', settings))
    parts = {
        path.stem
        for path in (ROOT / "worldloom_rl").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert parts - named - {"__init__"} == STRICT
