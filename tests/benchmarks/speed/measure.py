"""Measuring: CPU time, or a GPU's, in rounds beside a matrix product, operations done, peak memory."""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from speed.workload import Call, Mode, Peer, Workload
from worldloom_rl.training.compilation import built
from worldloom_rl.training.cuda_graphs import CALLS_BEFORE

_SIDES = {"cpu": 1024, "cuda": 4096}  # of the square float32 matrices whose product is the yardstick: it fills a GPU
_PRODUCTS = 4  # a calibration


@dataclass
class Measurement:
    """One row of the table. Times are milliseconds of CPU, or on a GPU of wall time, one a round."""

    workload: str
    claim: str
    by: str  # "worldloom", or the peer's name
    mode: Mode
    note: str = ""
    reference_gflop: float | None = None
    done_gflop: float | None = None
    build_seconds: float | None = None
    peak_gb: float | None = None
    milliseconds: list[float] = field(default_factory=list)
    gflop_per_second: list[float] = field(default_factory=list)  # of the yardstick, beside each of them

    @property
    def bounds(self) -> list[float]:
        """Each time as a multiple of what the reference's products would take at the yardstick's rate."""
        if self.reference_gflop is None:
            return []
        pairs = zip(self.milliseconds, self.gflop_per_second, strict=True)
        return [ms * rate / (1e3 * self.reference_gflop) for ms, rate in pairs]


@dataclass
class Contestant:
    """A call to be timed and the row it fills; no call where the peer can't do the work."""

    row: Measurement
    call: Call | None
    repeats: int


def seconds_of(device: str) -> float:
    """A clock: the process's CPU time, or for a GPU wall time at which all that it was given is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def calibrate(left: torch.Tensor, right: torch.Tensor) -> float:
    """GFLOP/s of the yardstick's product, of two square matrices, now."""
    device = left.device.type
    begin = seconds_of(device)
    for _ in range(_PRODUCTS):
        left @ right
    return _PRODUCTS * 2e-9 * len(left) ** 3 / (seconds_of(device) - begin)


def contestants(
    workloads: Sequence[Workload], *, mode: Mode, against: str | None, seed: int, device: str = "cpu"
) -> list[Contestant]:
    """Builds and warms everything that is to be timed: the work of each workload, and the peer's beside it.

    On a GPU the rows' peak memory is measured by the way, above what the others hold there.
    """
    found = []
    for workload in workloads:
        row = Measurement(workload.name, workload.claim, "worldloom", mode, reference_gflop=workload.reference_gflop)
        if workload.needs and find_spec(workload.needs) is None:
            row.note = f"{workload.needs} is not installed"
            found.append(Contestant(row, None, workload.repeats))
            continue
        torch.manual_seed(seed)
        with torch.device(device):
            call = workload.make("eager")
        row.done_gflop = done_gflop(call)
        del call
        before = built().seconds if mode == "compiled" else 0.0
        torch.manual_seed(seed)
        with _peak_on(device, row):
            with torch.device(device):
                call = workload.make(mode)
            for _ in range(1 + CALLS_BEFORE if mode == "recorded" else 2):
                call()
        row.build_seconds = built().seconds - before if mode == "compiled" else None
        found.append(Contestant(row, call, workload.repeats))
        for peer in workload.peers:
            if peer.name == against:
                found.append(_peer(workload, peer, device))
    return found


def _peer(workload: Workload, peer: Peer, device: str) -> Contestant:
    row = Measurement(workload.name, workload.claim, peer.name, "eager", peer.note, workload.reference_gflop)
    if peer.make is None:
        return Contestant(row, None, workload.repeats)
    with _peak_on(device, row):
        with torch.device(device):
            call = peer.make()
        row.done_gflop = done_gflop(call)
        call()
    return Contestant(row, call, workload.repeats)


@contextmanager
def _peak_on(device: str, row: Measurement) -> Iterator[None]:
    """On a GPU, sets the row's peak of memory taken within."""
    if device == "cpu":
        yield
        return
    gc.collect()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    yield
    row.peak_gb = (torch.cuda.max_memory_allocated(device) - before) / 1e9


def done_gflop(call: Call) -> float:
    """10⁹ floating-point operations of matrix products and convolutions in one call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def measure(timed: Sequence[Contestant], rounds: int, device: str = "cpu") -> None:
    """Times every contestant once a round, each between two calibrations; fills in their rows."""
    side = _SIDES[device]
    left, right = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    calibrate(left, right)
    with _without_collection():
        for _ in range(rounds):
            for contestant in timed:
                if contestant.call is None:
                    continue
                before = calibrate(left, right)
                begin = seconds_of(device)
                for _ in range(contestant.repeats):
                    contestant.call()
                seconds = (seconds_of(device) - begin) / contestant.repeats
                contestant.row.milliseconds.append(1e3 * seconds)
                contestant.row.gflop_per_second.append((before + calibrate(left, right)) / 2)
            gc.collect()


@contextmanager
def _without_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def peak_gb(name: str, *, mode: Mode, by: str, seed: int, environ: Mapping[str, str] | None = None) -> float | None:
    """Peak of resident memory above the imports, in 10⁹ bytes, of a fresh process that does the work three times.

    Args:
        environ: the process's environment, by default this one's.
    """
    script = Path(__file__).parents[1] / "memory.py"
    command = [sys.executable, str(script), name, mode, by, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise RuntimeError(f"Measuring the memory of {name} failed:\n{done.stderr}")
    value: float | None = json.loads(done.stdout.splitlines()[-1])
    return value


def resident_bytes() -> tuple[int, int] | None:
    """(now, peak) of this process's resident memory; None where the system doesn't tell (it does on Linux)."""
    file = Path("/proc/self/status")
    if not file.is_file():
        return None
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    now, peak = (1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return now, peak


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and greatest."""
    return statistics.median(values), min(values), max(values)
