"""`worldloom compare`: finished runs on one task side by side, or all runs of a sweep on one page."""

from __future__ import annotations

from pathlib import Path

import tyro

_PICTURE, _PAGE = "compare.png", "compare.html"


def compare(runs: tyro.conf.Positional[tuple[Path, ...]], output: Path | None = None) -> None:
    """Compare finished runs: tables, learning curves, interquartile means with intervals, distributions of scores.

    Args:
        runs: run directories, or JSON files of results, on one task; those that differ only in the seed are taken
            together. Or one directory that holds runs, such as a sweep's, on any tasks: it gets a page.
        output: where to write the picture, by default compare.png here, or the page, by default compare.html there.
    """
    from rich.console import Console

    from worldloom_rl.report.compare import comparison_table, draw_comparison
    from worldloom_rl.report.run_results import group_runs, read_result
    from worldloom_rl.report.sweep_page import runs_in, write_sweep_page

    if len(runs) == 1 and runs_in(runs[0]):
        page = output or runs[0] / _PAGE
        for groups in write_sweep_page(page, runs[0]):
            Console().print(comparison_table(groups))
        print(f"Learning curves, means and a row for each run: {page}")
        return
    groups = group_runs([read_result(run) for run in runs])
    Console().print(comparison_table(groups))
    picture = output or Path(_PICTURE)
    draw_comparison(picture, groups)
    print(f"Learning curves and score distributions: {picture}")
