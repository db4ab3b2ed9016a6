"""The API's pages are built from docstrings: `python -m pdoc worldloom_rl -o DIR`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

import worldloom_rl

# What pdoc cannot read: annotations that TorchRL keeps for type checkers, in members that ours inherit; and those of
# a NamedTuple or of an inherited dataclass, whose generated `__init__` forgets the module that it was written in; the
# keys that a TypedDict inherits.
NOT_OURS = re.compile(
    r"Import of (Storage|LLMCollector|BaseCollector|_AcceptedKeys) failed"
    r"|Cannot determine where [\w.]+\._storage is taken from"
    r"|Cannot determine where [\w.]+Keywords\.\w+ is taken from"
    r"|Error parsing type annotation .* for [\w.]+\.__init__\. Import of"
)
# Whose types belong to a package of our extras that is not here: all that is said of it.
EXTRAS = {re.split(r"[^\w-]", each)[0] for each in requires("worldloom-rl") or () if "extra ==" in each}
OF_AN_ABSENT_PACKAGE = re.compile(rf"annotation for ([\w.]+): No module named '({'|'.join(sorted(EXTRAS))})'")


@pytest.mark.process
def test_every_module_has_a_page_and_no_docstring_is_warned_of(tmp_path: Path) -> None:
    """Without MUJOCO_GL=disable the import of mujoco fails under pdoc, which runs no other processes meanwhile."""
    command = [sys.executable, "-m", "pdoc", "worldloom_rl", "-o", str(tmp_path)]
    environment = {**os.environ, "MUJOCO_GL": "disable"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if "Warn" in line]
    absent = {told[1] for told in map(OF_AN_ABSENT_PACKAGE.search, said) if told}
    of_absent = re.compile("|".join(rf" for {re.escape(name)}(: No module|\. Import of)" for name in absent) or "(?!)")
    ours = [line for line in said if not NOT_OURS.search(line) and not of_absent.search(line)]
    assert ours == []
    package = Path(worldloom_rl.__file__).parent
    # __main__ is a command, and a module whose name begins with _ is private.
    modules = [path for path in package.rglob("*.py") if not path.name.startswith("__")]
    pages = {page.relative_to(tmp_path / "worldloom_rl").with_suffix("") for page in tmp_path.rglob("*.html")
             if page.is_relative_to(tmp_path / "worldloom_rl")}  # fmt: skip
    missing = [path for path in modules if path.relative_to(package).with_suffix("") not in pages]
    assert missing == []
