"""The figures of a model report, each with a caption that says how to read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from worldloom_rl.report.agreement import by_step, imagined_returns, reliability
from worldloom_rl.report.model_report import ByHorizon, Evidence, Pairs

_TRUTH, _MODEL, _BASE = "black", "tab:orange", "tab:gray"
_MOST_POINTS = 2000  # of a scatter plot


def draw_figures(evidence: Evidence) -> Iterator[tuple[str, str, Figure]]:
    """Each figure with its name and a caption that says how to read it."""
    imagined, target = evidence.imagined, evidence.target
    yield (
        f"error of the {target} by steps imagined",
        "The model's line should stay below both others for as many steps as plans or imagined returns reach.",
        _draw_error(imagined, target),
    )
    yield (
        "rewards",
        "Left: rewards told from what was observed; points should lie on the line. Right: told from what was imagined.",
        _draw_reward(evidence.reward, imagined),
    )
    if evidence.goes_on:
        yield (
            "the end of episodes",
            "Left: of the steps with a given prediction, the share after which the episode went on; points should lie "
            "on the line. Right: the predictions where the episode went on and where it ended.",
            _draw_continue(evidence.goes_on),
        )
    yield (
        "values",
        f"What the value head expects of the next {evidence.value_steps} steps against the discounted rewards that "
        "came; points should lie on the line.",
        _draw_value(evidence.value),
    )
    yield (
        "returns by steps imagined",
        "Left: mean return since the start of imagination. Right: the error of single returns against always "
        "foreseeing the mean one.",
        _draw_returns(imagined, evidence.gamma),
    )


def _draw_error(imagined: ByHorizon, target: str) -> Figure:
    figure = Figure(figsize=(7.5, 4.0), layout="constrained")
    axes = figure.add_subplot()
    error, still = (by_step(part, imagined.alive).sqrt() for part in (imagined.error, imagined.unchanged))
    seen = imagined.seen.mean().sqrt().reshape(1).cpu()
    steps = np.arange(len(error) + 1)
    axes.plot(steps, torch.cat([seen, error]), color=_MODEL, linewidth=2.5, label="the model")
    axes.plot(
        steps, torch.cat([torch.zeros(1), still]), color=_TRUTH, linestyle="--", label="no change after the start"
    )
    axes.axhline(1.0, color=_BASE, linestyle=":", label="always the average")
    axes.set_ylabel(f"error of the {target}\n(standard deviations)")
    _finish(axes, "agent steps imagined", "How far it foresees")
    return figure


def _draw_reward(reward: Pairs, imagined: ByHorizon) -> Figure:
    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    _scatter(left, reward, "reward of a step")
    left.set_title("From observed latents")
    error = by_step((imagined.reward - imagined.true_reward).square(), imagined.alive).sqrt()
    spread = reward.truth.std(correction=0).cpu()
    right.plot(np.arange(1, len(error) + 1), error, color=_MODEL, linewidth=2.5, label="the model")
    right.axhline(float(spread), color=_BASE, linestyle=":", label="always the mean reward")
    right.set_ylabel("error of the reward (root mean square)")
    _finish(right, "agent steps imagined", "From imagined latents")
    return figure


def _draw_continue(goes_on: Mapping[str, Pairs]) -> Figure:
    figure = Figure(figsize=(10.0, 4.0 * len(goes_on)), layout="constrained")
    for (left, right), (where, pairs) in zip(
        figure.subplots(len(goes_on), 2, squeeze=False), goes_on.items(), strict=True
    ):
        _reliability(left, pairs)
        left.set_title(f"Reliability, from {where}")
        _histogram(right, pairs)
        right.set_title("Where episodes went on, and where they ended")
    return figure


def _reliability(axes: Axes, goes_on: Pairs) -> None:
    predicted, came, counts = zip(*reliability(goes_on), strict=True)
    axes.plot([0, 1], [0, 1], color=_TRUTH, linewidth=1.2, label="perfect")
    axes.plot(predicted, came, color=_MODEL, marker="o", label="the model, with numbers of steps")
    for x, y, count in zip(predicted, came, counts, strict=True):
        axes.annotate(f"{count}", (x, y), textcoords="offset points", xytext=(6, -10), fontsize=8)
    axes.set(xlim=(-0.05, 1.12), ylim=(-0.05, 1.05))
    axes.set_ylabel("share that went on")
    _finish(axes, "predicted probability to go on")


def _histogram(axes: Axes, goes_on: Pairs) -> None:
    ended = goes_on.truth < 0.5
    bins = np.linspace(0, 1, 21).tolist()
    for rows, color, label in ((~ended, "tab:blue", "went on"), (ended, "tab:red", "ended there")):
        if bool(rows.any()):
            count = int(rows.sum())
            weights = np.full(count, 100 / count)
            name = f"{label} ({count} steps)"
            axes.hist(goes_on.predicted[rows].cpu().numpy(), bins, weights=weights, color=color, alpha=0.5, label=name)
    axes.set_ylabel("share of those steps (%)")
    _finish(axes, "predicted probability to go on")


def _draw_value(value: Mapping[str, Pairs]) -> Figure:
    figure = Figure(figsize=(5.2 * len(value), 4.4), layout="constrained")
    for axes, (policy, pairs) in zip(figure.subplots(1, len(value), squeeze=False)[0], value.items(), strict=True):
        _scatter(axes, pairs, "return")
        axes.set_title(f"Under {policy}")
    return figure


def _draw_returns(imagined: ByHorizon, gamma: float) -> Figure:
    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    dreamt, real = imagined_returns(imagined, gamma)
    steps = np.arange(1, real.shape[1] + 1)
    left.plot(steps, dreamt.nanmean(0), color=_MODEL, linewidth=2.5, label="imagined")
    left.plot(steps, real.nanmean(0), color=_TRUTH, linewidth=1.2, label="real")
    left.set_ylabel("mean discounted return")
    _finish(left, "agent steps imagined", "Imagined and real return")
    right.plot(steps, (dreamt - real).square().nanmean(0).sqrt(), color=_MODEL, linewidth=2.5, label="the model")
    spread = (real - real.nanmean(0)).square().nanmean(0).sqrt()
    right.plot(steps, spread, color=_BASE, linestyle=":", label="always the mean return")
    right.set_ylabel("error of the return (root mean square)")
    _finish(right, "agent steps imagined", "Error of single returns")
    return figure


def _scatter(axes: Axes, pairs: Pairs, what: str) -> None:
    """Predicted against real, with the line of equality; far-off predictions are drawn at the edge."""
    if not len(pairs.truth):
        axes.text(0.5, 0.5, "no rows", ha="center", transform=axes.transAxes)
        return
    every = max(1, len(pairs.truth) // _MOST_POINTS)
    truth, predicted = pairs.truth[::every].cpu().numpy(), pairs.predicted[::every].cpu().numpy()
    low, high = float(truth.min()), float(truth.max())
    room = max(high - low, 0.05 * max(abs(low), abs(high)), 1e-3)
    bottom, top = low - 0.35 * room, high + 0.35 * room
    outside = (predicted < bottom) | (predicted > top)
    axes.plot([bottom, top], [bottom, top], color=_TRUTH, linewidth=1.2, label="perfect")
    if not outside.all():
        axes.scatter(truth[~outside], predicted[~outside], s=8, alpha=0.4, color=_MODEL, label="a step")
    if outside.any():
        label = f"beyond the edge ({100 * outside.mean():.0f} % of the steps)"
        axes.scatter(
            truth[outside], predicted[outside].clip(bottom, top), s=16, marker="x", color="tab:red", label=label
        )
    axes.set(xlim=(bottom, top), ylim=(bottom - 0.05 * room, top + 0.05 * room))
    axes.set_ylabel(f"{what}, predicted")
    axes.set_xlabel(f"{what}, real")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")  # off the line; to look for the best place among the points takes seconds


def _finish(axes: Axes, xlabel: str, title: str = "") -> None:
    axes.set_xlabel(xlabel)
    axes.set_title(title)
    if "steps" in xlabel:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
