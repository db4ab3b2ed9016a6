"""`worldloom compare`: finished runs on one task side by side."""

from __future__ import annotations

from pathlib import Path

import tyro


def compare(runs: tyro.conf.Positional[tuple[Path, ...]], output: Path = Path("compare.png")) -> None:
    """Compare finished runs on one task: a table, and learning curves and score distributions as a picture.

    Args:
        runs: run directories, or JSON files of results; those that differ only in the seed are taken together.
        output: where to write the picture.
    """
    from rich.console import Console

    from worldloom_rl.report.compare import comparison_table, draw_comparison
    from worldloom_rl.report.run_results import group_runs, read_result

    groups = group_runs([read_result(run) for run in runs])
    Console().print(comparison_table(groups))
    draw_comparison(output, groups)
    print(f"Learning curves and score distributions: {output}")
