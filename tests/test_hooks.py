"""The hooks of a commit check what .ci/run checks."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_the_hooks_hold_the_same_parts_to_strict_types_as_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    (loop,) = re.findall(r"^for part in (.*?); do$", script, re.MULTILINE | re.DOTALL)
    parts = [f"worldloom_rl/{part}" for part in loop.replace("\\", " ").split()]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = {hook["id"]: hook["entry"].split() for hook in repository["hooks"]}
    assert entries["mypy-strict"] == ["python", "-m", "mypy", "--strict", *parts]
    for check in ("ruff check", "ruff format", "mypy worldloom_rl"):
        assert f"-m {check}" in script
        assert any(" ".join(entry).startswith(f"python -m {check}") for entry in entries.values())
