"""Finished runs on one task side by side: a table, and a picture of learning curves and score distributions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from worldloom_rl.config import Json
from worldloom_rl.functional.statistics import bootstrap_interval, interquartile_mean, score_text, share_above
from worldloom_rl.report.reference_scores import ReferenceCurve, reference_curve
from worldloom_rl.training.run_directory import CONFIG_FILE, CURVE_FILE, RESULT_FILE

# What a configuration holds beside the settings that two runs of one group must share.
_NO_SETTINGS = frozenset(
    {"env", "time_limit", "preset", "seed", "run_directory", "threads", "device", "capacity"}
    | {"eval_every", "eval_episodes", "final_eval_episodes", "checkpoint_every"}
)


@dataclass(frozen=True)
class RunResult:
    """What a finished run says of itself.

    Attributes:
        steps: environment steps before each evaluation, the last one included; gradient updates if `clock` says so.
        returns: per-episode returns of each evaluation.
        final_returns: those of the last one.
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

    @property
    def task(self) -> str:
        """What must be the same for returns to be comparable: environment and time limit."""
        limit = self.config.get("time_limit")
        return str(self.config["env"]) + (f" with a time limit of {limit}" if limit else "")

    @property
    def settings(self) -> dict[str, str]:
        """Name → text for people, of all that tells runs apart beside task, preset and seed."""
        texts = {name: f"{name}={value}" for name, value in self.config.items() if name not in _NO_SETTINGS}
        overrides: Any = self.config.get("overrides", ())
        return {**texts, "overrides": ", ".join(sorted(overrides))}


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in nothing but the seed."""

    label: str
    runs: tuple[RunResult, ...]

    @property
    def strata(self) -> list[tuple[float, ...]]:
        """Final returns of each run."""
        return [run.final_returns for run in self.runs]

    @property
    def final_returns(self) -> list[float]:
        """Final returns of all runs."""
        return [score for run in self.runs for score in run.final_returns]

    @property
    def official(self) -> ReferenceCurve | None:
        """The official code's curve, where one was published for this very task."""
        first = self.runs[0]
        if first.config.get("time_limit"):
            return None
        return reference_curve(first.recipe, str(first.config["env"]), pixels=bool(first.config.get("pixels")))

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
            f"Go on with it: worldloom resume {path}"
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


# ------------------------------------------------------------------ the table


def comparison_table(groups: Sequence[RunGroup]) -> Group:
    """A row for each group: runs, steps, mean and interquartile mean of the final episodes, the official score."""
    officials = [group.official for group in groups]
    table = Table(title=groups[0].runs[0].task, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", min_width=10)
    headings = ["runs,\nseeds", "steps of agent,\nenvironment", "mean", "IQM,\n95 % interval"]
    for heading in headings + ["official, at\nenvironment steps"] * any(officials):
        table.add_column(heading, justify="right", no_wrap=True)
    for group, official in zip(groups, officials, strict=True):
        table.add_row(*(Text(cell) for cell in _cells(group, official)))
    note = (
        "IQM: interquartile mean of the last evaluation's episodes, all runs together. The interval draws episodes "
        "anew within each run (stratified bootstrap); it does not tell what other seeds would have scored."
    )
    if any(officials):
        note += " Official: published by the authors, at the recorded number of steps nearest to the run's."
    return Group(table, Text(note))


def _cells(group: RunGroup, official: ReferenceCurve | None) -> list[str]:
    runs, scores = group.runs, group.final_returns
    low, high = bootstrap_interval(group.strata)
    cells = [
        group.label,
        f"{len(runs)}\n" + ", ".join(str(run.config["seed"]) for run in runs),
        f"{runs[0].agent_steps:,}\n{runs[0].environment_steps:,}",
        score_text(float(np.mean(scores))),
        f"{score_text(interquartile_mean(scores))}\n[{score_text(low)}, {score_text(high)}]",
    ]
    if official is not None:
        steps, score = official.nearest(runs[0].environment_steps)
        cells.append(f"{score_text(score)}\nat {steps:,}")
    return cells


# ------------------------------------------------------------------ the picture


def draw_comparison(file: Path, groups: Sequence[RunGroup]) -> None:
    """Write a picture: left the learning curves, right the share of final episodes above each score."""
    figure = Figure(figsize=(11.0, 4.8), layout="constrained")
    figure.suptitle(groups[0].runs[0].task)
    curves, profiles = figure.subplots(1, 2)
    _draw_curves(curves, groups)
    _draw_profiles(profiles, groups)
    handles, labels = curves.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.savefig(file, dpi=120)


def _draw_curves(axes: Axes, groups: Sequence[RunGroup]) -> None:
    drawn: set[ReferenceCurve] = set()
    for number, group in enumerate(groups):
        color = f"C{number}"
        steps, means = group.curve()
        runs = f"{len(means)} runs" if len(means) > 1 else "1 run"
        axes.plot(steps, means.mean(0), marker="o", markersize=4, color=color, label=f"{group.label} ({runs})")
        axes.fill_between(steps, means.min(0), means.max(0), color=color, alpha=0.2, linewidth=0)
    last = max(run.environment_steps for group in groups for run in group.runs)
    for number, group in enumerate(groups):
        official = group.official
        if official is None or official in drawn:
            continue
        drawn.add(official)
        shown = 1 + sum(steps < last for steps in official.steps)  # up to the first at or beyond our last step
        axes.plot(
            official.steps[:shown],
            official.returns[:shown],
            linestyle="--",
            marker="s",
            color=f"C{number}",
            markerfacecolor="none",
            label=f"official {official.name} (published from {official.steps[0]:,} steps on)",
        )
    axes.set_title("Learning curves: mean of runs, band from lowest to highest", fontsize=10)
    clock = groups[0].runs[0].clock
    axes.set(xlabel="environment steps" if clock == "agent_steps" else clock, ylabel="mean episode return")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=6)  # so that millions have room


def _draw_profiles(axes: Axes, groups: Sequence[RunGroup]) -> None:
    scores = np.unique(np.concatenate([group.final_returns for group in groups]))
    margin = 0.05 * (scores[-1] - scores[0]) or 1.0
    thresholds = [scores[0] - margin, *scores, scores[-1] + margin]
    for number, group in enumerate(groups):
        axes.step(thresholds, share_above(group.final_returns, thresholds), where="post", color=f"C{number}")
    axes.set_title("Last evaluation: distribution of episode returns", fontsize=10)
    axes.set(xlabel="episode return", ylabel="share of episodes above", ylim=(-0.03, 1.03))
