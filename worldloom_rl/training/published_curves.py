"""What the official code of a family scored on a task: the learning curves that its authors published, as bands.

published/tdmpc2.csv comes from the files in results/ of TD-MPC2's repository (returns of evaluations), and
published/dreamerv3.csv from scores/ of DreamerV3's (returns of the training episodes shortly before). DreamerV3's
curves here are its authors' own. TD-MPC2's repository has other runs of DreamerV3, with other numbers:
cartpole-swingup after 100,000 steps stands at 677 there, at 528 by its authors.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise

_ATARI_SUITES = {"ale": "atari57", "ale100k": "atari100k"}
_ATARI_FRAMES = 4  # of a simulator step of "ale:"; the published steps are frames


@dataclass(frozen=True, order=True)
class Point:
    """Mean, least and greatest return of the seeds after so many environment steps."""

    steps: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PublishedCurve:
    """Published returns by environment steps.

    Attributes:
        name: of code and model size.
        seeds: how many runs the band goes around, at the most: some games have fewer at some points.
        episodes: of which returns are counted, "evaluation" or "training".
        points: in ascending order; steps as `make_env` counts them, action repeat included.
    """

    name: str
    seeds: int
    episodes: str
    points: tuple[Point, ...]

    def at(self, steps: int) -> Point | None:
        """Between two published points the straight line; None before the first point and after the last."""
        for left, right in pairwise((self.points[0], *self.points)):
            if left.steps <= steps <= right.steps:
                share = (steps - left.steps) / max(1, right.steps - left.steps)
                between = ((1 - share) * a + share * b for a, b in zip(_returns(left), _returns(right), strict=True))
                return Point(steps, *between)
        return None

    def until(self, steps: int) -> tuple[Point, ...]:
        """The points up to the first at or beyond these steps, to be drawn beside a run of so many."""
        return self.points[: 1 + sum(point.steps < steps for point in self.points)]

    def __str__(self) -> str:
        return f"{self.name}, {self.seeds} seeds, {self.episodes} episodes"


def _returns(point: Point) -> tuple[float, float, float]:
    return point.mean, point.low, point.high


def published_curve(recipe: str, env: str, *, pixels: bool, time_limit: int | None = None) -> PublishedCurve | None:
    """The official curve of a family on an environment of `make_env`, or None where none was published.

    Args:
        recipe: "tdmpc2" or "dreamerv3"; others have none.
        env: a name that `make_env` takes.
        pixels: whether the agent observes rendered images.
        time_limit: instead of the environment's own; it makes another task.
    """
    if time_limit is not None:
        return None
    if recipe == "tdmpc2":
        return _tdmpc2(env, pixels)
    if recipe == "dreamerv3":
        return _dreamerv3(env, pixels)
    return None


def _tdmpc2(env: str, pixels: bool) -> PublishedCurve | None:
    family, _, task = env.partition(":")
    task = task.replace("_", "-").replace("ball-in-cup", "cup")
    wanted = {"algo": "tdmpc2-pixels" if pixels else "tdmpc2", "task": task, "metric": "reward"}
    return _curve("TD-MPC2 5M", "evaluation", "tdmpc2", wanted, pixels) if family == "dmc" else None


def _dreamerv3(env: str, pixels: bool) -> PublishedCurve | None:
    family, _, task = env.partition(":")
    if family == "dmc":
        suite = "dmc_vision" if pixels else "dmc_proprio"
        name = "dmc_" + re.sub("^cup_", "ball_in_cup_", task.replace("-", "_"))
        return _curve("DreamerV3 12M", "training", "dreamerv3", {"suite": suite, "task": name}, pixels)
    if family in _ATARI_SUITES and not pixels:  # there images are what the game shows; `pixels` renders others
        name = "atari_" + re.sub("(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", task).lower()
        wanted = {"suite": _ATARI_SUITES[family], "task": name}
        return _curve("DreamerV3", "training", "dreamerv3", wanted, frames=_ATARI_FRAMES)
    return None


def _curve(
    name: str, episodes: str, file: str, wanted: Mapping[str, str], pixels: bool = False, frames: int = 1
) -> PublishedCurve | None:
    """The rows of a file that have these entries.

    Args:
        frames: of the file, in one step of `make_env`.
    """
    rows = [row for row in _rows(file) if all(row[column] == value for column, value in wanted.items())]
    if not rows:
        return None
    points = (
        Point(int(row["env_steps"]) // frames, *(float(row[column]) for column in ("mean", "min", "max")))
        for row in rows
    )
    seeds = max(int(row["n_seeds"]) for row in rows)
    return PublishedCurve(name + " from images" * pixels, seeds, episodes, tuple(sorted(points)))


def _rows(file: str) -> Iterator[dict[str, str]]:
    path = resources.files("worldloom_rl.training") / "published" / f"{file}.csv"
    yield from csv.DictReader(path.read_text("utf-8").splitlines())
