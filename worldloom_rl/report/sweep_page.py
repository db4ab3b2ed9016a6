"""The runs of a directory as one page: for each task curves, means and a table of settings, and a row for every run."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from worldloom_rl.atomic import write_text
from worldloom_rl.functional.statistics import score_text
from worldloom_rl.report.compare import comparison_figure, comparison_texts
from worldloom_rl.report.page import page, picture
from worldloom_rl.report.run_progress import read_progress
from worldloom_rl.report.run_results import RunGroup, RunResult, group_runs, read_result
from worldloom_rl.training.run_directory import CONFIG_FILE

_CAPTION = (
    "Left: returns of evaluations, of three runs of a setting and more their interquartile mean with its interval, of "
    "fewer the mean and the band from the lowest to the highest run. Middle: the interquartile mean of the last "
    "evaluation with its interval, and the mean of each run. Right: "
    "the share of these episodes with a return above each value; a curve further right and higher is better."
)
_GO_ON = "A run that is not finished goes on by the sweep's command, or by worldloom resume and its directory."
_COLORS = {"finished": "#2e7d32", "not finished": "#b26a00", "not comparable": "#5f6368"}


def runs_in(directory: Path) -> list[Path]:
    """The run directories in a directory, such as a sweep's, by name; none if it is a run itself, or holds none."""
    if not directory.is_dir() or (directory / CONFIG_FILE).exists():
        return []
    return sorted(folder for folder in directory.iterdir() if (folder / CONFIG_FILE).is_file())


def groups_by_task(results: Iterable[RunResult]) -> list[list[RunGroup]]:
    """The groups of each task, for runs that have no axis in common can stand on one page, not in one picture."""
    tasks: dict[tuple[str, str], list[RunResult]] = {}
    for result in results:
        tasks.setdefault((result.task, result.clock), []).append(result)
    return [group_runs(alike) for alike in tasks.values()]


def write_sweep_page(file: Path, directory: Path) -> list[list[RunGroup]]:
    """Write the page of the runs in a directory. Returns the groups of each task."""
    results: dict[Path, RunResult] = {}
    reasons: dict[Path, str] = {}
    runs = runs_in(directory)
    for run in runs:
        try:
            results[run] = read_result(run)
        except ValueError as error:
            reasons[run] = str(error) if read_progress(run).finished else ""
    tasks = groups_by_task(results.values())
    parts = [_task(groups) for groups in tasks]
    rows = [_row(run, file.parent, results.get(run), reasons.get(run, "")) for run in runs]
    headings = ["run", "state", "steps", "last return", "best return", "minutes of training", ""]
    parts.append(f"<h2>Runs</h2>\n{_table(headings, rows, 'numbers')}")
    if len(results) < len(runs):
        parts.append(f"<p>{html.escape(_GO_ON)}</p>")
    title = f"{directory.resolve().name}: {len(results)} of {len(runs)} runs finished"
    write_text(file, page(title, "\n".join(parts)))
    return tasks


def _task(groups: Sequence[RunGroup]) -> str:
    headings, rows, note = comparison_texts(groups)
    name = groups[0].runs[0].task
    cells = [[html.escape(cell).replace("\n", "<br>") for cell in row] for row in rows]
    return (
        f"<h2>{html.escape(name)}</h2>\n{picture(name, _CAPTION, comparison_figure(groups))}\n"
        f"{_table(headings, cells, 'right')}\n<p>{html.escape(note)}</p>"
    )


def _row(run: Path, page_in: Path, result: RunResult | None, reason: str) -> list[str]:
    progress = read_progress(run)
    state = "finished" if result else "not comparable" if progress.finished else "not finished"
    means = [float(np.mean(returns)) for returns in result.returns] if result else []
    last = means[-1] if means else progress.mean_return
    cells = [f"{progress.steps:,} of {progress.total:,}" if progress.total else ""]
    cells += [score_text(value) if value is not None else "" for value in (last, max(means, default=None))]
    cells += [f"{result.training_seconds / 60:.1f}" if result else "", reason]
    log = Path(f"{run}.log")
    link = quote(os.path.relpath(log, page_in)) if log.exists() else ""
    name = f'<a href="{link}">{html.escape(run.name)}</a>' if link else html.escape(run.name)
    return [name, f'<b style="color:{_COLORS[state]}">{state}</b>', *map(html.escape, cells)]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], kind: str) -> str:
    """HTML of a table, of cells that are HTML."""
    head = "".join(f"<th>{html.escape(heading)}</th>".replace("\n", "<br>") for heading in headings)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{kind}"><tr>{head}</tr>\n{body}</table>'
