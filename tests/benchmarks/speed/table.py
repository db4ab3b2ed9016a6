"""The results: a Markdown table for people, JSON lines for programs."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from speed.measure import Measurement, spread
from worldloom_rl.config import Json

_COLUMNS = (
    "workload", "by", "{} ms", "GFLOP done", "reference GFLOP", "x reference bound", "x worldloom's time", "peak GB",
    "note",
)  # fmt: skip


def markdown(rows: Sequence[Measurement], clock: str = "CPU") -> str:
    """A table with median (least–greatest) over the rounds.

    Args:
        clock: whose milliseconds they are, "CPU" or "wall".
    """
    return "\n".join(
        [
            f"| {' | '.join(_COLUMNS).format(clock)} |",
            "|---" * len(_COLUMNS) + "|",
            *(_line(row, _own(row, rows)) for row in rows),
        ]
    )


def record(
    row: Measurement, rows: Sequence[Measurement], about: Mapping[str, Json], clock: str = "CPU"
) -> dict[str, Json]:
    """Everything measured of one row, with medians, and what the run tells of itself."""
    values: dict[str, Json] = dataclasses.asdict(row)
    for name, numbers in (
        (f"{clock.lower()}_ms", row.milliseconds),
        ("bound", row.bounds),
        ("ratio", _ratios(row, _own(row, rows))),
    ):
        values[name] = spread_of(numbers) if numbers else None
    return {**values, **about}


def spread_of(values: Sequence[float]) -> dict[str, Json]:
    """Median, least and greatest by name."""
    return dict(zip(("median", "min", "max"), spread(values), strict=True))


def _own(row: Measurement, rows: Sequence[Measurement]) -> Measurement | None:
    """Our row of the same work, for a peer's row."""
    if row.by == "worldloom":
        return None
    return next((other for other in rows if other.workload == row.workload and other.by == "worldloom"), None)


def _ratios(row: Measurement, own: Measurement | None) -> list[float]:
    """The peer's time as a multiple of ours, round by round."""
    if own is None or not row.milliseconds:
        return []
    return [theirs / ours for theirs, ours in zip(row.milliseconds, own.milliseconds, strict=True)]


def _line(row: Measurement, own: Measurement | None) -> str:
    note = row.note
    if row.build_seconds:
        note = f"{note} built in {row.build_seconds:.0f} s".strip()
    cells = [
        row.workload,
        row.by if row.mode == "eager" else f"{row.by}, {row.mode}",
        _spread(row.milliseconds, 1 if row.milliseconds and statistics.median(row.milliseconds) >= 10 else 2),
        "" if not row.done_gflop else f"{row.done_gflop:.4g}",
        "" if row.reference_gflop is None else f"{row.reference_gflop:.4g}",
        _spread(row.bounds, 2),
        _spread(_ratios(row, own), 2),
        "" if row.peak_gb is None else f"{row.peak_gb:.2f}",
        note,
    ]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    return "{:.{d}f} ({:.{d}f}–{:.{d}f})".format(*spread(values), d=digits)
