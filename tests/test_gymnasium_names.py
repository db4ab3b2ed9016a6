"""Importing the library makes the dream known to gymnasium, in whatever order both are imported or looked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOKED_FOR = "import importlib.util; importlib.util.find_spec('gymnasium')"


@pytest.mark.parametrize(
    "first",
    [
        "import worldloom_rl, gymnasium",
        "import gymnasium, worldloom_rl",
        f"import worldloom_rl; {LOOKED_FOR}; import gymnasium",
    ],
)
def test_the_dream_is_a_name_of_gymnasiums_and_nothing_stays_in_the_way_of_imports(first: str) -> None:
    program = f"import sys; {first}; assert 'worldloom/Dream-v0' in gymnasium.registry; "
    program += (
        "print([type(finder).__name__ for finder in sys.meta_path].count('_WhenImported'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]
