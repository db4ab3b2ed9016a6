"""The learning curve of a run as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldloom_rl.atomic import write_bytes
from worldloom_rl.training.clock import AGENT_STEPS
from worldloom_rl.training.evaluate import Evaluation
from worldloom_rl.training.published_curves import PublishedCurve, published_curve
from worldloom_rl.training.recipe import ConfigT, ModelT, Recipe, StateT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_evaluations(
    file: Path, recipe: Recipe[ConfigT, ModelT, StateT], config: ConfigT, evaluations: Sequence[Evaluation]
) -> None:
    """Write a PNG of a run's evaluations: returns of episodes or, where none was played, the statistics.

    Beside the returns stands the published curve of the family on this environment, if there is one.
    """
    clock = recipe.clock
    title = f"{recipe.title} {config.preset} on {config.task}, seed {config.seed}"
    steps = [clock.on_axis(clock.count(evaluation), config.repeat) for evaluation in evaluations]
    if not evaluations[-1].returns:
        draw_statistics(file, title, steps, [each.statistics for each in evaluations], axis=clock.axis)
        return
    published = None
    if clock is AGENT_STEPS:
        published = published_curve(recipe.name, config.env, pixels=config.pixels, time_limit=config.time_limit)
    returns = [each.returns for each in evaluations]
    draw_learning_curve(file, title, steps, returns, axis=clock.axis, published=published)


def draw_learning_curve(
    file: Path,
    title: str,
    steps: Sequence[int],
    returns: Sequence[Sequence[float]],
    axis: str = "environment steps",
    published: PublishedCurve | None = None,
) -> None:
    """Write a PNG of mean episode return, with the band from smallest to largest, against environment steps.

    Args:
        steps: environment steps (action repeat counted) of each evaluation, or what `axis` names.
        returns: per-episode returns of each evaluation.
        published: the official code's, drawn beside them as a band.
    """
    from matplotlib.figure import Figure  # imported late: it takes a second

    figure = Figure(figsize=(6.4, 4.0))
    # Margins by hand: a layout that finds them draws everything twice, at each evaluation.
    axes = figure.add_axes((0.14, 0.24, 0.83, 0.67))
    axes.plot(steps, [sum(values) / len(values) for values in returns], marker="o", label="mean")
    axes.fill_between(
        steps, [min(values) for values in returns], [max(values) for values in returns], alpha=0.2, label="min to max"
    )
    if published is not None:
        draw_published(axes, published, steps[-1])
    axes.set(xlabel=axis, ylabel="episode return")
    axes.set_title(title, parse_math=False)  # a path may hold what would be mathematics
    figure.legend(loc="lower center", ncols=2)
    write_picture(file, figure, dpi=120)


def write_picture(file: Path, figure: Figure, *, dpi: int) -> None:
    """The figure in the form that the file's name ends with, in place of what stood there."""
    content = io.BytesIO()
    figure.savefig(content, format=file.suffix.removeprefix(".") or "png", dpi=dpi)
    write_bytes(file, content.getvalue())


def draw_published(axes: Axes, curve: PublishedCurve, last: int, color: str = "C1") -> None:
    """Draws a published curve up to the first point at or beyond the last step: mean, and band of the seeds."""
    steps, means, lows, highs = zip(*((p.steps, p.mean, p.low, p.high) for p in curve.until(last)), strict=True)
    axes.plot(steps, means, linestyle="--", marker="s", color=color, markerfacecolor="none", label=f"official {curve}")
    # A band of one point would have no width: its range is a line.
    axes.vlines(steps, lows, highs, color=color, linewidth=1)
    axes.fill_between(steps, lows, highs, color=color, alpha=0.12, linewidth=0)


def draw_statistics(
    file: Path, title: str, steps: Sequence[int], statistics: Sequence[Mapping[str, float]], axis: str
) -> None:
    """Write a PNG with a panel for each number that evaluations give, against what `axis` names."""
    from matplotlib.figure import Figure  # imported late: it takes a second

    names = list(statistics[-1])
    figure = Figure(figsize=(6.4, 0.8 + 1.8 * len(names)), layout="constrained")
    figure.suptitle(title, parse_math=False)
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        axes.plot(steps, [values[name] for values in statistics], marker="o")
        axes.set_ylim(bottom=0)
        axes.set_title(name.replace("_", " "), fontsize=10)
    panels[-1].set_xlabel(axis)
    write_picture(file, figure, dpi=120)
