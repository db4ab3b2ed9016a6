"""Finished runs on one task side by side: a table, and a picture of learning curves and score distributions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from worldloom_rl.functional.statistics import bootstrap_interval, interquartile_mean, score_text, share_above
from worldloom_rl.report.run_results import SEVERAL, RunGroup
from worldloom_rl.training.learning_curve import draw_published, write_picture
from worldloom_rl.training.published_curves import PublishedCurve


def comparison_table(groups: Sequence[RunGroup]) -> Group:
    """A row for each group: runs, steps, mean and interquartile mean of the final episodes, the official score."""
    headings, rows, note = comparison_texts(groups)
    table = Table(title=Text(groups[0].runs[0].task), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", min_width=10)
    for heading in headings[1:]:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return Group(table, Text(note))


def comparison_texts(groups: Sequence[RunGroup]) -> tuple[list[str], list[list[str]], str]:
    """The headings and rows of `comparison_table`, and how to read them."""
    officials = [group.official for group in groups]
    headings = ["", "runs,\nseeds", "steps of agent,\nenvironment", "mean", "IQM,\n95 % interval"]
    note = (
        "IQM: interquartile mean. Of three runs and more it is that of their means, and the interval draws runs anew. "
        "Of fewer it is that of the last evaluation's episodes, and the interval draws episodes anew within each run: "
        "it does not tell what other seeds would have scored."
    )
    if any(officials):
        headings.append("official,\n[seeds' range]")
        names = dict.fromkeys(str(official) for official in officials if official)
        note += f" Official: published by the authors ({'; '.join(names)}), read off the line between two points."
    return headings, [_cells(group, official) for group, official in zip(groups, officials, strict=True)], note


def _cells(group: RunGroup, official: PublishedCurve | None) -> list[str]:
    runs, scores = group.runs, group.final_returns
    middle, low, high = group.interquartile_mean
    cells = [
        group.label,
        f"{len(runs)}\n" + ", ".join(str(run.config["seed"]) for run in runs),
        f"{runs[0].agent_steps:,}\n{runs[0].environment_steps:,}",
        score_text(float(np.mean(scores))),
        f"{score_text(middle)}\n[{score_text(low)}, {score_text(high)}]",
    ]
    if official is not None:
        cells.append(_official_text(official, runs[0].environment_steps))
    return cells


def _official_text(official: PublishedCurve, steps: int) -> str:
    point = official.at(steps)
    if point is not None:
        return f"{score_text(point.mean)}\n[{score_text(point.low)}, {score_text(point.high)}]"
    first, last = official.points[0], official.points[-1]
    near = first if steps < first.steps else last
    return f"{score_text(near.mean)} at\n{near.steps:,}"


# ------------------------------------------------------------------ the picture


def draw_comparison(file: Path, groups: Sequence[RunGroup]) -> None:
    """Write the picture of `comparison_figure`."""
    write_picture(file, comparison_figure(groups), dpi=120)


def comparison_figure(groups: Sequence[RunGroup]) -> Figure:
    """Learning curves, interquartile means with their intervals, and the share of final episodes above each score."""
    figure = Figure(figsize=(13.0, 5.0), layout="constrained")
    figure.suptitle(groups[0].runs[0].task, parse_math=False)
    curves, means, profiles = figure.subplots(1, 3, width_ratios=(1.5, 1.0, 1.2))
    _draw_curves(curves, groups)
    _draw_means(means, groups)
    _draw_profiles(profiles, groups)
    handles, labels = curves.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _color(number: int) -> str:
    """Of a group, the same in each panel."""
    return to_hex(colormaps["tab20" if number >= 10 else "tab10"](number % 20))


def _draw_curves(axes: Axes, groups: Sequence[RunGroup]) -> None:
    drawn: set[PublishedCurve] = set()
    for number, group in enumerate(groups):
        color = _color(number)
        steps, means = group.curve()
        runs = f"{len(means)} runs" if len(means) > 1 else "1 run"
        middle, low, high = means.mean(0), means.min(0), means.max(0)
        if len(means) >= SEVERAL:
            middle = np.array([interquartile_mean(column) for column in means.T])
            low, high = np.array([bootstrap_interval([column]) for column in means.T]).T
        axes.plot(steps, middle, marker="o", markersize=4, color=color, label=f"{group.label} ({runs})")
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    last = max(run.environment_steps for group in groups for run in group.runs)
    for number, group in enumerate(groups):
        official = group.official
        if official is None or official in drawn:
            continue
        drawn.add(official)
        draw_published(axes, official, last, color=_color(number))
    several = any(len(group.runs) >= SEVERAL for group in groups)
    fewer = any(len(group.runs) < SEVERAL for group in groups)
    titles = ["IQM of runs, 95 % interval"] * several + ["mean of runs, band from lowest to highest"] * fewer
    axes.set_title(f" (of fewer than {SEVERAL}: ".join(titles) + ")" * (several and fewer), fontsize=10)
    clock = groups[0].runs[0].clock
    axes.set(xlabel="environment steps" if clock == "agent_steps" else clock, ylabel="mean episode return")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=6)  # so that millions have room


def _draw_means(axes: Axes, groups: Sequence[RunGroup]) -> None:
    for number, group in enumerate(groups):
        middle, low, high = group.interquartile_mean
        axes.plot(group.means, [number] * len(group.runs), "|", markersize=12, color=_color(number), alpha=0.6)
        axes.plot([low, high], [number, number], linewidth=7, alpha=0.3, color=_color(number), solid_capstyle="butt")
        axes.plot([middle], [number], "o", color=_color(number))
    axes.set_title("IQM, 95 % interval, mean of each run (|)", fontsize=10)
    axes.set(xlabel="episode return", yticks=[], ylim=(len(groups) - 0.4, -0.6))  # the first on top
    axes.locator_params(axis="x", nbins=5)


def _draw_profiles(axes: Axes, groups: Sequence[RunGroup]) -> None:
    scores = np.unique(np.concatenate([group.final_returns for group in groups]))
    margin = 0.05 * (scores[-1] - scores[0]) or 1.0
    thresholds = [scores[0] - margin, *scores, scores[-1] + margin]
    for number, group in enumerate(groups):
        axes.step(thresholds, share_above(group.final_returns, thresholds), where="post", color=_color(number))
    axes.set_title("Last evaluation: share of episodes above", fontsize=10)
    axes.set(xlabel="episode return", ylabel="share of episodes", ylim=(-0.03, 1.03))
