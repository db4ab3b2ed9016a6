"""Importing the library makes its names known to gymnasium, in whatever order both are imported or looked for."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import pytest

from worldloom_rl.envs import catch, door, point_room, recall

LOOKED_FOR = "import importlib.util; importlib.util.find_spec('gymnasium')"


@pytest.mark.parametrize(
    "first",
    [
        "import worldloom_rl, gymnasium",
        "import gymnasium, worldloom_rl",
        f"import worldloom_rl; {LOOKED_FOR}; import gymnasium",
    ],
)
def test_its_environments_are_names_of_gymnasiums_and_nothing_stays_in_the_way_of_imports(first: str) -> None:
    program = f"import sys; {first}; names = [name for name in gymnasium.registry if name.startswith('worldloom/')]; "
    program += "finders = [type(finder).__name__ for finder in sys.meta_path]; "
    program += "print(*sorted(names), finders.count('_WhenImported'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names = [f"worldloom/{name}-v0" for name in ("Catch", "Door", "Dream", "PointRoom", "Recall")]
    assert done.stdout.split() == [*names, "0", "False"]


@pytest.mark.parametrize(
    ("name", "made"),
    [("Catch", catch.Catch), ("Door", door.Door), ("PointRoom", point_room.PointRoom), ("Recall", recall.Recall)],
)
def test_a_name_makes_its_environment_with_its_length(name: str, made: type[gymnasium.Env]) -> None:  # type: ignore[type-arg]
    env = gymnasium.make(f"worldloom/{name}-v0")
    assert type(env.unwrapped) is made
    assert env.spec is not None
    assert env.spec.max_episode_steps == sys.modules[made.__module__].EPISODE_STEPS
