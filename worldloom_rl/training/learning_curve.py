"""The learning curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from worldloom_rl.training.clock import Clock
from worldloom_rl.training.evaluate import Evaluation


def draw_evaluations(
    file: Path, title: str, evaluations: Sequence[Evaluation], clock: Clock, *, action_repeat: int
) -> None:
    """Write a PNG of a run's evaluations: returns of episodes or, where none was played, the statistics."""
    steps = [clock.on_axis(clock.count(evaluation), action_repeat) for evaluation in evaluations]
    if evaluations[-1].returns:
        draw_learning_curve(file, title, steps, [each.returns for each in evaluations], axis=clock.axis)
    else:
        draw_statistics(file, title, steps, [each.statistics for each in evaluations], axis=clock.axis)


def draw_learning_curve(
    file: Path,
    title: str,
    steps: Sequence[int],
    returns: Sequence[Sequence[float]],
    axis: str = "environment steps",
) -> None:
    """Write a PNG of mean episode return, with the band from smallest to largest, against environment steps.

    Args:
        steps: environment steps (action repeat counted) of each evaluation, or what `axis` names.
        returns: per-episode returns of each evaluation.
    """
    from matplotlib.figure import Figure  # imported late: it takes a second

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, [sum(values) / len(values) for values in returns], marker="o", label="mean")
    axes.fill_between(
        steps, [min(values) for values in returns], [max(values) for values in returns], alpha=0.2, label="min to max"
    )
    axes.set(title=title, xlabel=axis, ylabel="episode return")
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(file, dpi=120)


def draw_statistics(
    file: Path, title: str, steps: Sequence[int], statistics: Sequence[Mapping[str, float]], axis: str
) -> None:
    """Write a PNG with a panel for each number that evaluations give, against what `axis` names."""
    from matplotlib.figure import Figure  # imported late: it takes a second

    names = list(statistics[-1])
    figure = Figure(figsize=(6.4, 0.8 + 1.8 * len(names)), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        axes.plot(steps, [values[name] for values in statistics], marker="o")
        axes.set_ylim(bottom=0)
        axes.set_title(name.replace("_", " "), fontsize=10)
    panels[-1].set_xlabel(axis)
    figure.savefig(file, dpi=120)
