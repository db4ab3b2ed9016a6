"""The table and the picture of results that `keep_run.py` kept: `python tests/learning/table.py` renews the page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from keep_run import by_several, precision
from matplotlib.figure import Figure
from test_learning import RESULTS

from worldloom_rl.config import Json
from worldloom_rl.report.run_results import RunGroup, read_result
from worldloom_rl.training.learning_curve import draw_published, write_picture

PAGE = Path(__file__).parent / "README.md"
PICTURE = Path(__file__).parents[2] / "tutorials" / "images" / "published-tasks.png"
BEGIN, END = "<!-- table.py -->", "<!-- end -->"
HEADINGS = (
    "family, task", "seed", "environment steps", "mean return", "of episodes", "published mean", "published range",
    "threshold", "random policy", "training seconds", "file",
)  # fmt: skip
_TITLES = {"tdmpc2": "TD-MPC2", "dreamerv3": "DreamerV3"}


def kept_files(directory: Path) -> list[Path]:
    """Those that `keep_run.py` wrote."""
    return [file for file in sorted(directory.glob("*.json")) if "compared" in json.loads(file.read_text())]


# ------------------------------------------------------------------ the table


def table(files: Sequence[Path]) -> str:
    """Markdown: a row for each run and number of steps."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(row for file in files for row in rows(file))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows(file: Path) -> Iterator[list[str]]:
    """The cells of a result's rows."""
    result = json.loads(file.read_text())
    config = result["config"]
    name = [title(result["recipe"]), task_of(config), f"`{config['preset']}`"]
    for at in result["compared"]:
        published = at["published"] or {}
        last = at["environment_steps"] == result["environment_steps"]
        yield [
            ", ".join([*name, *config["overrides"], *filter(None, [precision(config), by_several(result)])]),
            str(config["seed"]),
            f"{at['environment_steps']:,}",
            number(at["mean_return"]),
            at["episodes"],
            number(published.get("mean")),
            " to ".join(number(published[key]) for key in ("least", "greatest") if published),
            number(result["threshold"]),
            number(result["random_mean_return"]),
            f"{result['training_seconds']:.0f}" if last else "",
            file.name,
        ]


def title(recipe: str) -> str:
    """A recipe's name for people."""
    return _TITLES.get(recipe.partition("-")[0], recipe)


def task_of(config: Mapping[str, Json]) -> str:
    """The environment of a configuration with its arguments."""
    return " ".join([config["env"], *config.get("env_kwargs", ())])


def number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}".replace("-", "−")


# ------------------------------------------------------------------ the picture


def groups_of(files: Sequence[Path]) -> dict[str, list[RunGroup]]:
    """By task with published scores: the runs of each family and preset."""
    runs = [read_result(file) for file in files]
    found: dict[str, list[RunGroup]] = {}
    for (task, label), alike in groupby(
        sorted(runs, key=lambda run: (run.task, run.recipe, run.config["preset"])),
        key=lambda run: (run.task, f"{_TITLES.get(run.recipe, run.recipe)} {run.config['preset']}"),
    ):
        group = RunGroup(label, tuple(alike))
        if group.official is not None:
            found.setdefault(task, []).append(group)
    return found


def figure(tasks: dict[str, list[RunGroup]]) -> Figure:
    """A panel a task: each run a line, the band between the runs, and the published bands."""
    columns = min(3, len(tasks))
    count = -(-len(tasks) // columns)
    drawn = Figure(figsize=(4.4 * columns, 0.6 + 3.4 * count), layout="constrained")
    panels = drawn.subplots(count, columns, squeeze=False).flat
    labels: dict[str, Any] = {}
    for (task, groups), axes in zip(tasks.items(), panels, strict=False):  # the panels that are left stay empty
        for place, group in enumerate(groups):
            color = f"C{place}"
            for run in group.runs:
                means = [sum(values) / len(values) for values in run.returns]
                (line,) = axes.plot(run.steps, means, color=color, linewidth=1, label=group.label)
                labels.setdefault(group.label, line)
            steps, means = group.curve()
            axes.fill_between(steps, means.min(0), means.max(0), color=color, alpha=0.25, linewidth=0)
            if group.official is not None:
                draw_published(axes, group.official, max(run.steps[-1] for run in group.runs), color=f"C{place + 5}")
                labels.setdefault(f"published: {group.official}", axes.lines[-1])
        axes.set_title(task, fontsize=10)
        axes.set(xlabel="environment steps", ylabel="mean episode return")
        axes.locator_params(axis="x", nbins=5)
    for axes in panels:
        axes.axis("off")
    drawn.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=2, fontsize=9)
    return drawn


# ------------------------------------------------------------------ the page


def page(text: str, files: Sequence[Path]) -> str:
    """The page with the table, and the picture if there is one, between its two marks."""
    picture = f"![Runs in published bands](../../tutorials/images/{PICTURE.name})\n\n" * bool(groups_of(files))
    return between(text, BEGIN, END, f"{picture}{table(files)}")


def between(text: str, begin: str, end: str, made: str) -> str:
    """The text with what was made between two marks that stand in it."""
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n\n{made}\n\n{end}", text, flags=re.DOTALL)


def main() -> None:
    files = kept_files(RESULTS)
    PAGE.write_text(page(PAGE.read_text(), files))
    tasks = groups_of(files)
    if tasks:
        write_picture(PICTURE, figure(tasks), dpi=100)


if __name__ == "__main__":
    main()
