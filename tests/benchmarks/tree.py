"""The process in which `speed.trees` times one tree's work: it does what it is told to by name, and prints the time."""

from __future__ import annotations

import json
import logging
import sys
import warnings

import torch
from speed import measure
from speed.catalogue import find
from speed.workload import Mode

from worldloom_rl.training.run_directory import provenance


def main(mode: Mode, seed: str, *names: str) -> None:
    """Prints what the tree is once all is built, then of each name that comes in milliseconds and the yardstick's."""
    torch.set_num_threads(1)
    timed = {
        name: measure.contestants([find(name)], mode=mode, against=None, seed=int(seed), device="cpu") for name in names
    }
    print(json.dumps(provenance()), flush=True)
    for line in sys.stdin:
        [contestant] = timed[line.strip()]
        measure.measure([contestant], rounds=1)
        row = contestant.row
        told = (row.milliseconds[-1], row.gflop_per_second[-1]) if row.milliseconds else None
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # torchrl's, of its own classes
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    main(*sys.argv[1:])  # type: ignore[arg-type]
