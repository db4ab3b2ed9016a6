"""The command `python tests/benchmarks`: time of one thread or a GPU, beside a matrix product in the same rounds."""

from __future__ import annotations

import json as json_format
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from speed import measure, table
from speed.catalogue import WORKLOADS, find
from speed.workload import Mode
from worldloom_rl.config import Json
from worldloom_rl.training.compilation import missing_compiler
from worldloom_rl.training.run_directory import provenance

_LIMITS = ("MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")  # of a processor's instructions


def run(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    rounds: int = 9,
    device: Literal["cpu", "cuda"] = "cpu",
    compile: bool = False,
    cuda_graphs: bool = False,
    against: Literal["torchrl"] | None = None,
    json: Path | None = None,
    memory: bool = True,
    seed: int = 0,
) -> list[measure.Measurement]:
    """Measure workloads: print a Markdown table and a line of JSON for each.

    "x reference bound" is the CPU time over what the reference algorithm's matrix products would take at the rate of a
    1024 x 1024 x 1024 float32 product, measured before and after each call: figures of one run can be compared, and
    ratios of different runs on processors of one kind. With MKL_ENABLE_INSTRUCTIONS=AVX2, ATEN_CPU_CAPABILITY=avx2 and
    ONEDNN_MAX_CPU_ISA=AVX2 in the environment a processor works as one without AVX-512 does, whose products are slower
    and what is not a product weighs less. Medians, least and greatest over the rounds.

    On a GPU times are of the wall, from an idle device to an idle device, and the yardstick is a 4096 x 4096 x 4096
    float32 product there, without TF32. Replay stays on the CPU, as in a recipe; what it draws is sent.

    `python tests/benchmarks scaling` draws time against samples, horizon, environments and other sizes.
    `python tests/benchmarks trees ../before` measures this tree beside another one, such as a commit before it.
    `python tests/benchmarks queue` simulates a learner with actors beside it, from times like these.

    Args:
        names: of workloads; all by default.
        rounds: each times every workload once, in turn.
        device: where the work is done.
        compile: run our code compiled; its build is not part of the times.
        cuda_graphs: run our code as CUDA graphs, on a GPU.
        against: another library that does the same work in the same rounds, where it can.
        json: file for a list of what the lines of JSON hold.
        memory: measure peak memory too, on the CPU each in a process of its own.
        seed: of weights and data.
    """
    workloads = [find(name) for name in names or WORKLOADS]
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("Nothing is measured: PyTorch finds no CUDA device.")
    if compile and (reason := missing_compiler(device)):
        raise SystemExit(f"Nothing is compiled: {reason}.")
    if cuda_graphs and (compile or device != "cuda"):
        raise SystemExit("cuda_graphs needs --device cuda, and is measured without --compile.")
    mode: Mode = "compiled" if compile else "recorded" if cuda_graphs else "eager"
    torch.set_num_threads(1)
    timed = measure.contestants(workloads, mode=mode, against=against, seed=seed, device=device)
    measure.measure(timed, rounds, device)
    rows = [contestant.row for contestant in timed]
    for contestant in timed if memory and device == "cpu" else ():
        row = contestant.row
        if contestant.call is not None:
            row.peak_gb = measure.peak_gb(row.workload, mode=row.mode, by=row.by, seed=seed)
    about = about_this_run()
    if device == "cuda":
        about["device"] = torch.cuda.get_device_name()
    clock = "CPU" if device == "cpu" else "wall"
    records = [table.record(row, rows, about, clock) for row in rows]
    print(table.markdown(rows, clock), "", *map(json_format.dumps, records), sep="\n")
    if json is not None:
        json.write_text(json_format.dumps(records, indent=1) + "\n")
    return rows


def about_this_run() -> dict[str, Json]:
    """What a record tells of the run: its command, the processor's instructions, commit, versions and machine."""
    limits = {name: os.environ[name] for name in _LIMITS if name in os.environ}
    return {
        "command": ["python", "tests/benchmarks", *sys.argv[1:]],
        "instructions": {"torch": torch.backends.cpu.get_cpu_capability(), **limits},
        **provenance(),
    }
