"""`python -m worldloom_rl.benchmarks`: CPU time of one thread, beside a matrix product in the same rounds."""

from __future__ import annotations

import json as json_format
import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from worldloom_rl.benchmarks import measure, table
from worldloom_rl.benchmarks.catalogue import WORKLOADS, find
from worldloom_rl.training.compilation import missing_compiler
from worldloom_rl.training.run_directory import provenance


def run(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    rounds: int = 9,
    compile: bool = False,
    against: Literal["torchrl"] | None = None,
    json: Path | None = None,
    memory: bool = True,
    seed: int = 0,
) -> list[measure.Measurement]:
    """Measure workloads: print a Markdown table and a line of JSON for each.

    "x reference bound" is the CPU time over what the reference algorithm's matrix products would take at the rate of a
    1024 x 1024 x 1024 float32 product, measured before and after each call: figures of one run can be compared, and
    ratios of different runs. Medians, least and greatest over the rounds.

    Args:
        names: of workloads; all by default.
        rounds: each times every workload once, in turn.
        compile: run our code compiled; its build is not part of the times.
        against: another library that does the same work in the same rounds, where it can.
        json: file for the lines of JSON, beside printing them.
        memory: measure peak memory too, each in a process of its own.
        seed: of weights and data.
    """
    workloads = [find(name) for name in names or WORKLOADS]
    if compile and (reason := missing_compiler()):
        raise SystemExit(f"Nothing is compiled: {reason}.")
    torch.set_num_threads(1)
    timed = measure.contestants(workloads, compiled=compile, against=against, seed=seed)
    measure.measure(timed, rounds)
    rows = [contestant.row for contestant in timed]
    for contestant in timed if memory else ():
        row = contestant.row
        if contestant.call is not None:
            row.peak_gb = measure.peak_gb(row.workload, compiled=row.mode == "compiled", by=row.by, seed=seed)
    about = {"command": ["python", "-m", "worldloom_rl.benchmarks", *sys.argv[1:]], **provenance()}
    lines = [json_format.dumps(table.record(row, rows, about)) for row in rows]
    print(table.markdown(rows), "\n", *lines, sep="\n")
    if json is not None:
        json.write_text("\n".join(lines) + "\n")
    return rows


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # torchrl's, of its own classes
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    tyro.cli(run)
