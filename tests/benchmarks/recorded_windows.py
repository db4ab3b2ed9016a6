"""`python tests/benchmarks/recorded_windows.py FOLDER [GIGABYTES]`: what batches straight from mt80-sized files cost.

Writes sparse files of mt80's shape to a new folder under FOLDER, opens them, draws 100 batches of 1024 windows of four
rows, prints seconds and memory as JSON, and removes the files. Holes of a file are read as zeros without a disk: the
numbers are those of files that the system's cache holds.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from tensordict import TensorDict
from torch.serialization import skip_data

from worldloom_rl.data import Windows, open_episodes

EPISODES, ROWS, OBSERVATION, ACTION = 200_000, 101, 39, 6  # of most files of mt80
BATCHES, BATCH_SIZE, WINDOW = 100, 1024, 4


def write(folder: Path, gigabytes: float) -> int:
    """Sparse files of that size in all; how many."""
    like = {
        "obs": torch.empty(EPISODES, ROWS, OBSERVATION),
        "action": torch.empty(EPISODES, ROWS, ACTION),
        "reward": torch.empty(EPISODES, ROWS),
        "task": torch.empty(EPISODES, ROWS, dtype=torch.int32),
    }  # memory that is asked for and never touched
    size = sum(leaf.nbytes for leaf in like.values()) / 1e9
    count = max(1, int(gigabytes / size))
    for number in range(count):
        with skip_data():
            torch.save(TensorDict(like, [EPISODES, ROWS]), folder / f"chunk_{number}.pt")
    return count


def resident() -> float:
    """Gigabytes of memory that this process holds now, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def measure(folder: Path) -> dict[str, float]:
    """Seconds and gigabytes of opening, of a batch, and at most."""
    torch.set_num_threads(1)
    before, start = resident(), time.perf_counter()
    episodes = open_episodes(f"tdmpc2:{folder}", ["all"])
    opened = time.perf_counter() - start
    windows = Windows(episodes, WINDOW, BATCH_SIZE, torch.Generator().manual_seed(0))
    seconds, most = [], resident()
    for _ in range(BATCHES):
        start = time.perf_counter()
        windows.sample()
        seconds.append(time.perf_counter() - start)
        most = max(most, resident())
    return {
        "gigabytes": episodes.bytes / 1e9,
        "episodes": len(episodes.lengths),
        "rss_before_gb": before,
        "opening_s": opened,
        "batch_ms": 1e3 * sorted(seconds)[BATCHES // 2],
        "slowest_batch_ms": 1e3 * max(seconds),
        "rss_between_batches_gb": most,
        "rss_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as made:
        write(Path(made), float(sys.argv[2]) if len(sys.argv) > 2 else 40.0)
        print(json.dumps(measure(Path(made)), indent=1))
