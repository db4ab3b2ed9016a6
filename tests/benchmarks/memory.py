"""The process whose memory `measure.peak_gb` asks for: does a workload three times and prints the peak over imports."""

from __future__ import annotations

import json
import sys

import torch
from speed.catalogue import find
from speed.measure import resident_bytes
from speed.workload import Mode


def main(name: str, mode: Mode, by: str, seed: str) -> None:
    """Prints 10⁹ bytes, or null where the system doesn't tell."""
    torch.set_num_threads(1)
    torch.manual_seed(int(seed))
    workload = find(name)
    make = next((peer.make for peer in workload.peers if peer.name == by), None)
    before = resident_bytes()
    call = workload.make(mode) if by == "worldloom" else make() if make else None
    if call is not None:
        for _ in range(3):
            call()
    after = resident_bytes()
    print(json.dumps((after[1] - before[0]) / 1e9 if before and after else None))


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
