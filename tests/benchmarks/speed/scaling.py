"""How time grows: with samples, horizon, environments, batch, ensemble size and imagination starts."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from speed import dreamerv3, measure, tdmpc2
from speed.workload import Call
from worldloom_rl.config import Json
from worldloom_rl.training.run_directory import provenance

_FILE = Path(__file__).parents[3] / "tutorials" / "images" / "scaling.png"


@dataclass(frozen=True)
class Curve:
    """Work whose size is one number."""

    title: str
    axis: str
    sizes: tuple[int, ...]
    make: Callable[[int], Call]


def _plan(name: str, size: int) -> Call:
    return tdmpc2.plan(1, "eager", **{name: size})


CURVES = (
    Curve("TD-MPC2 plan", "samples", (128, 256, 512, 1024), partial(_plan, "num_samples")),
    Curve("TD-MPC2 plan", "horizon", (1, 2, 3, 4, 6), partial(_plan, "horizon")),
    Curve("TD-MPC2 plan", "environments", (1, 2, 4), lambda size: tdmpc2.plan(size, "eager")),
    Curve("TD-MPC2 update", "batch", (64, 128, 256, 512), lambda size: tdmpc2.learn("eager", batch_size=size)),
    Curve("TD-MPC2 update", "Q members", (2, 5, 8, 12), lambda size: tdmpc2.learn("eager", num_q=size)),
    Curve(
        "DreamerV3 imagination",
        "starts",
        (64, 256, 512, 1024),
        lambda size: dreamerv3.imagine(size, 15, "eager"),
    ),
)


def run(picture: Path = _FILE, rounds: int = 3) -> None:
    """Draw time against size, and write the numbers to a JSON file beside the picture.

    Args:
        picture: file of the picture.
        rounds: each times every size once, in turn; medians are drawn.
    """
    torch.set_num_threads(1)
    found: list[dict[str, Json]] = []
    for curve in CURVES:
        timed = []
        for size in curve.sizes:
            torch.manual_seed(0)
            call = curve.make(size)
            call()
            row = measure.Measurement(f"{curve.axis} {size}", curve.title, "worldloom", "eager")
            timed.append(measure.Contestant(row, call, 1))
        measure.measure(timed, rounds)
        medians = [statistics.median(contestant.row.milliseconds) for contestant in timed]
        products = [_in_products(contestant.row) for contestant in timed]
        found.append(
            {"title": curve.title, "axis": curve.axis, "sizes": curve.sizes, "cpu_ms": medians, "gflop": products}
        )
        print(f"{curve.title}, {curve.axis}: " + ", ".join(f"{s}: {ms:.0f} ms" for s, ms in _points(found[-1])))
    about = {"command": ["python", "tests/benchmarks", *sys.argv[1:]], **provenance()}
    picture.with_suffix(".json").write_text(json.dumps({"curves": found, **about}, indent=2) + "\n")
    _draw(found, picture)


def _in_products(row: measure.Measurement) -> float:
    """The time as 10⁹ operations of the yardstick's product, round by round."""
    pairs = zip(row.milliseconds, row.gflop_per_second, strict=True)
    return statistics.median(ms * rate / 1e3 for ms, rate in pairs)


def _points(curve: dict[str, Json]) -> list[tuple[int, float]]:
    return list(zip(curve["sizes"], curve["cpu_ms"], strict=True))


def _draw(curves: list[dict[str, Json]], file: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), constrained_layout=True)
    for axis, curve in zip(axes.flat, curves, strict=True):
        sizes, gflop = curve["sizes"], curve["gflop"]
        slope = (gflop[-1] - gflop[0]) / (sizes[-1] - sizes[0])
        axis.plot([0, sizes[-1]], [gflop[0] - slope * sizes[0], gflop[-1]], "--", color="0.7", label="straight line")
        axis.plot(sizes, gflop, "o-", label="measured")
        axis.set(title=curve["title"], xlabel=curve["axis"], xlim=(0, None), ylim=(0, None))
        axis.set_xticks(sizes)
    for axis in axes[:, 0]:
        axis.set_ylabel("time, in GFLOP of a 1024³ product")
    axes.flat[0].legend(frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)
