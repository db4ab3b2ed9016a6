"""What the official code of a family scored on a task, from the learning curves that its authors published.

reference/tdmpc2.csv comes from the files in results/ of TD-MPC2's repository: evaluation returns, means over seeds;
reference/dreamerv3.csv from scores/ of DreamerV3's: returns of training episodes, averaged over the last 5 % of steps.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

_FROM_IMAGES = " from images"
_ATARI_SUITES = {"ale": "atari57", "ale100k": "atari100k"}
_ATARI_FRAMES = 4  # of a simulator step of "ale:"; the published steps are frames


@dataclass(frozen=True)
class ReferenceCurve:
    """Published mean returns by environment steps, in ascending order.

    Attributes:
        name: of the code, for people.
        steps: environment steps as `make_env` counts them, action repeat included.
    """

    name: str
    steps: tuple[int, ...]
    returns: tuple[float, ...]

    def nearest(self, steps: int) -> tuple[int, float]:
        """The recorded steps nearest to those asked for, and the return there."""
        return min(zip(self.steps, self.returns, strict=True), key=lambda point: abs(point[0] - steps))


def reference_curve(recipe: str, env: str, *, pixels: bool) -> ReferenceCurve | None:
    """The official curve of a family on an environment of `make_env`, or None where none was published.

    Args:
        recipe: "tdmpc2" or "dreamerv3"; others have none.
        env: a name that `make_env` takes; the task must have its own time limit.
        pixels: whether the agent observes rendered images.
    """
    if recipe == "tdmpc2":
        return _curve("TD-MPC2" + _FROM_IMAGES * pixels, _tdmpc2_points(env, pixels))
    if recipe == "dreamerv3":
        return _curve("DreamerV3" + _FROM_IMAGES * pixels, _dreamerv3_points(env, pixels))
    return None


def _curve(name: str, points: Iterator[tuple[int, float]]) -> ReferenceCurve | None:
    ordered = sorted(points)
    return ReferenceCurve(name, *zip(*ordered, strict=True)) if ordered else None


def _tdmpc2_points(env: str, pixels: bool) -> Iterator[tuple[int, float]]:
    family, _, task = env.partition(":")
    task = task.replace("_", "-").replace("ball-in-cup", "cup")
    algorithm = "tdmpc2-pixels" if pixels else "tdmpc2"
    for row in _rows("tdmpc2"):
        if family == "dmc" and (row["algo"], row["task"], row["metric"]) == (algorithm, task, "reward"):
            yield int(row["env_steps"]), float(row["mean"])


def _dreamerv3_points(env: str, pixels: bool) -> Iterator[tuple[int, float]]:
    family, _, task = env.partition(":")
    frames = 1
    if family == "dmc":
        suite = "dmc_vision" if pixels else "dmc_proprio"
        name = "dmc_" + re.sub("^cup_", "ball_in_cup_", task.replace("-", "_"))
    elif family in _ATARI_SUITES and not pixels:  # there images are what the game shows; `pixels` renders others
        suite, frames = _ATARI_SUITES[family], _ATARI_FRAMES
        name = "atari_" + re.sub("(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", task).lower()
    else:
        return
    for row in _rows("dreamerv3"):
        if (row["suite"], row["task"]) == (suite, name):
            yield int(row["env_steps"]) // frames, float(row["mean_return"])


def _rows(family: str) -> Iterator[Mapping[str, str]]:
    file = resources.files("worldloom_rl.report") / "reference" / f"{family}.csv"
    yield from csv.DictReader(file.read_text("utf-8").splitlines())
