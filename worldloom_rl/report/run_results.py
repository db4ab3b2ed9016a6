"""What finished runs say of themselves, read from their directories and grouped by what they share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom_rl.config import Json
from worldloom_rl.functional.statistics import bootstrap_interval, interquartile_mean
from worldloom_rl.tasks import trained_on
from worldloom_rl.training.next_command import typed
from worldloom_rl.training.published_curves import PublishedCurve, published_curve
from worldloom_rl.training.run_directory import CONFIG_FILE, CURVE_FILE, RESULT_FILE

SEVERAL = 3  # runs from which on an interval is drawn over them

# What a configuration holds beside the settings that two runs of one group must share.
_NO_SETTINGS = frozenset(
    {"env", "time_limit", "preset", "seed", "run_directory", "threads", "device", "capacity"}
    | {"eval_every", "eval_episodes", "final_eval_episodes", "first_evaluation", "checkpoint_every"}
)


@dataclass(frozen=True)
class RunResult:
    """What a finished run says of itself.

    Attributes:
        steps: environment steps before each evaluation, the last one included; gradient updates if `clock` says so.
        returns: per-episode returns of each evaluation.
        final_returns: those of the last one.
        training_seconds: without evaluations; 0 if it does not say.
    """

    file: Path
    recipe: str
    config: Mapping[str, Json]
    agent_steps: int
    environment_steps: int
    steps: tuple[int, ...]
    returns: tuple[tuple[float, ...], ...]
    final_returns: tuple[float, ...]
    clock: str = "agent_steps"
    training_seconds: float = 0.0

    @property
    def task(self) -> str:
        """What must be the same for returns to be comparable: environment and time limit."""
        limit = self.config.get("time_limit")
        return trained_on(self.config) + (f" with a time limit of {limit}" if limit else "")

    @property
    def settings(self) -> dict[str, str]:
        """Name → text for people, of all that tells runs apart beside task, preset and seed."""
        told = {name: value for name, value in self.config.items() if value not in ([], ())}  # as where it is missing
        texts = {name: f"{name}={value}" for name, value in told.items() if name not in _NO_SETTINGS}
        overrides: Json = self.config.get("overrides", ())
        return {**texts, "overrides": ", ".join(sorted(overrides))}


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in nothing but the seed."""

    label: str
    runs: tuple[RunResult, ...]

    @property
    def means(self) -> list[float]:
        """Mean final return of each run."""
        return [float(np.mean(run.final_returns)) for run in self.runs]

    @property
    def interquartile_mean(self) -> tuple[float, float, float]:
        """Interquartile mean and its 95 % interval: of the runs' means, or of all episodes where the runs are few.

        Runs are drawn anew, and the interval tells what other seeds would have scored; of fewer than `SEVERAL` runs
        episodes are, within each run, and it does not.
        """
        strata = [self.means] if len(self.runs) >= SEVERAL else [list(run.final_returns) for run in self.runs]
        scores = [score for stratum in strata for score in stratum]
        return (interquartile_mean(scores), *bootstrap_interval(strata))

    @property
    def final_returns(self) -> list[float]:
        """Final returns of all runs."""
        return [score for run in self.runs for score in run.final_returns]

    @property
    def official(self) -> PublishedCurve | None:
        """The official code's curve, where one was published for this very task."""
        first = self.runs[0]
        if first.clock != "agent_steps":
            return None
        env, pixels = str(first.config["env"]), bool(first.config.get("pixels"))
        return published_curve(first.recipe, env, pixels=pixels, time_limit=first.config.get("time_limit"))

    def curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Environment steps [T] and mean returns [runs, T], interpolated where runs were evaluated at other steps."""
        first, last = max(run.steps[0] for run in self.runs), min(run.steps[-1] for run in self.runs)
        steps = np.unique(np.concatenate([np.asarray(run.steps, float) for run in self.runs]))
        steps = steps[(steps >= first) & (steps <= last)]
        means = [[float(np.mean(episodes)) for episodes in run.returns] for run in self.runs]
        return steps, np.stack([np.interp(steps, run.steps, mean) for run, mean in zip(self.runs, means, strict=True)])


# ------------------------------------------------------------------ reading


def read_result(path: Path) -> RunResult:
    """The result of a run directory or of a result's JSON file.

    Raises FileNotFoundError for a path that holds none and ValueError for a run that is not finished or another file.
    """
    file = path / RESULT_FILE if path.is_dir() else path
    if path.is_dir() and not file.is_file() and (path / CONFIG_FILE).is_file():
        raise ValueError(
            f"{path} holds no {RESULT_FILE}: the run has not finished its last evaluation. "
            f"Go on with it: {typed('resume', path)}"
        )
    if not file.is_file():
        raise FileNotFoundError(f"{path} is neither a run directory nor a result's JSON file.")
    try:
        data = json.loads(file.read_text("utf-8"))
        if not data["final_returns"]:
            raise ValueError(
                f"{file} tells of no episode's return, so there is nothing to compare: the run was judged by "
                f"{sorted(data['evaluations'][-1]['statistics'])}, which {RESULT_FILE} and {CURVE_FILE} show."
            )
        clock = data.get("clock", "agent_steps")
        repeat = data["environment_steps"] // data["agent_steps"] if data["agent_steps"] else 1
        return RunResult(
            file=file.resolve(),
            recipe=data["recipe"],
            config={**data["config"], "action_repeat": repeat},  # None there says: the environment's default
            agent_steps=data["agent_steps"],
            environment_steps=data["environment_steps"],
            steps=tuple(entry[clock] * (repeat if clock == "agent_steps" else 1) for entry in data["evaluations"]),
            returns=tuple(tuple(entry["returns"]) for entry in data["evaluations"]),
            final_returns=tuple(data["final_returns"]),
            clock=clock,
            training_seconds=float(data.get("training_seconds", 0.0)),
        )
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not the {RESULT_FILE} that 'worldloom train' writes ({error!r}).") from error


def group_runs(results: Sequence[RunResult]) -> list[RunGroup]:
    """Runs that differ in nothing but the seed together, in the order they were given.

    Raises ValueError if there is none, one is given twice, or their tasks differ.
    """
    if not results:
        raise ValueError("There is nothing to compare: name run directories or JSON files of results.")
    for number, result in enumerate(results):
        if result.file in [other.file for other in results[:number]]:
            raise ValueError(f"{result.file} is given twice; its episodes would count as those of two runs.")
    tasks = list(dict.fromkeys(result.task for result in results))
    if len(tasks) > 1:
        raise ValueError(
            f"Returns of different tasks have no common axis: {'; '.join(tasks)}. Compare the runs of one at a time."
        )
    if len({result.clock for result in results}) > 1:
        raise ValueError(
            "Runs that learn while they collect are measured by environment steps, runs on data collected before by "
            "gradient updates; these have no common axis. Compare runs of one kind at a time."
        )
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        alike = [other for other in results if _name(other) == _name(result)]
        groups.setdefault(", ".join([_name(result), *_differing(result, alike)]), []).append(result)
    return [RunGroup(label, tuple(runs)) for label, runs in groups.items()]


def _name(result: RunResult) -> str:
    return f"{result.recipe} {result.config['preset']}"


def _differing(result: RunResult, alike: Iterable[RunResult]) -> list[str]:
    """Texts of the settings in which these runs differ; one that an older run did not know is a difference too."""
    settings = [other.settings for other in alike]
    return [
        text for name, text in result.settings.items() if text and any(other.get(name) != text for other in settings)
    ]
