"""Replay against TorchRL's SliceSampler: CPU time of sampling windows of the same rows.

    python -m worldloom_rl.benchmarks.replay [--out FILE.json]

Both hold the same observations, stored once ("no next copy": TorchRL's buffer has no ("next", observation) either), in
episodes of 100 rows, and draw windows of the same size inside episodes. SliceSampler keeps its cached values, which
only a buffer that is not written to can do. Rounds of the two alternate on one thread; a round is the mean of several
batches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer, SliceSampler

from worldloom_rl.data import Replay
from worldloom_rl.training.run_directory import provenance, write_json

EPISODE = 100  # rows


def rows(number: int, observation: Tensor, latent: int = 0) -> TensorDict:
    """[number] rows of one stream, in truncated episodes; observation [number, ...]."""
    step = torch.arange(number).unsqueeze(-1) % EPISODE
    entries = {
        "observation": observation,
        "previous_action": torch.rand(number, 6),
        "reward": torch.rand(number, 1),
        "is_init": step == 0,
        "terminated": torch.zeros(number, 1, dtype=torch.bool),
        "truncated": step == EPISODE - 1,
        "stream": torch.zeros(number, dtype=torch.int64),
    }
    if latent:
        entries |= {"latent": TensorDict({"deterministic": torch.zeros(number, latent)}, batch_size=[number])}
    return TensorDict(entries, batch_size=[number])


def slice_buffer(data: TensorDict, windows: int, length: int) -> ReplayBuffer:
    """TorchRL's buffer of the same rows; its end-of-slice marks are off."""
    sampler = SliceSampler(slice_len=length, traj_key="episode", cache_values=True, truncated_key=None)
    buffer = ReplayBuffer(storage=LazyTensorStorage(len(data)), sampler=sampler, batch_size=windows * length)
    buffer.extend(data.exclude("stream").set("episode", torch.arange(len(data)) // EPISODE))
    return buffer


def cpu_milliseconds(calls: dict[str, Callable[[], Any]], rounds: int, repeats: int) -> dict[str, list[float]]:
    """CPU milliseconds of a call, one number a round; the calls take turns within a round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(repeats):
                call()
            if turn:  # the first round warms up
                times[name].append(1e3 * (time.process_time() - start) / repeats)
    return times


def sampling(name: str, observation: Tensor, windows: int, length: int, rounds: int) -> list[dict[str, Any]]:
    """Table rows of the two buffers over the same data."""
    data = rows(len(observation), observation)
    replay = Replay(capacity=len(data), window=length, batch_size=windows, by="episode")
    replay.extend(data)
    buffer = slice_buffer(data, windows, length)
    calls = {"SliceSampler": lambda: buffer.sample().reshape(windows, length), "Replay": replay.sample}
    times = cpu_milliseconds(calls, rounds, repeats=5)
    ratios = [theirs / ours for theirs, ours in zip(times["SliceSampler"], times["Replay"], strict=True)]
    table = [_summary(f"sample {name}, {call}", values) for call, values in times.items()]
    table[1]["ratio"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return table


def writing(rounds: int) -> list[dict[str, Any]]:
    """Table rows of extending by one step of 16 environments, and of writing back latents."""
    image = torch.randint(256, (5000, 3, 64, 64), dtype=torch.uint8)
    data = rows(5000, image, latent=512)
    replay = Replay(capacity=5000, window=64, batch_size=16, by="window")
    replay.extend(data)
    step = data[:16].clone()
    step["stream"] = torch.arange(16) + 1
    step["is_init"], step["truncated"] = torch.ones(16, 1).bool(), torch.zeros(16, 1).bool()
    batch: TensorDictBase = replay.sample().select("index", "index_generation", "latent")

    def extend() -> None:
        replay.extend(step)
        step["is_init"] = torch.zeros(16, 1).bool()

    calls = {"extend 16 rows of 64x64x3": extend, "write back 16x64 latents of 512": lambda: replay.write_back(batch)}
    return [_summary(name, values) for name, values in cpu_milliseconds(calls, rounds, repeats=5).items()]


def _summary(name: str, values: list[float]) -> dict[str, Any]:
    return {"name": name, "median": statistics.median(values), "min": min(values), "max": max(values)}


def _markdown(table: list[dict[str, Any]]) -> str:
    lines = ["| CPU ms | median | min | max | times faster |", "|---|---|---|---|---|"]
    for row in table:
        ratio = "{median:.1f} ({min:.1f}–{max:.1f})".format(**row["ratio"]) if "ratio" in row else ""
        lines.append(f"| {row['name']} | {row['median']:.2f} | {row['min']:.2f} | {row['max']:.2f} | {ratio} |")
    return "\n".join(lines)


def run(images: int = 10_000, vectors: int = 100_000, rounds: int = 15) -> dict[str, Any]:
    """The whole report: commit, machine, table."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made_by = provenance()
        pixels = torch.randint(256, (images, 3, 64, 64), dtype=torch.uint8)
        table = sampling("16x64 of 64x64x3 uint8", pixels, 16, 64, rounds)
        table += sampling("256x4 of 24 float32", torch.rand(vectors, 24), 256, 4, rounds)
        table += writing(rounds)
    finally:
        torch.set_num_threads(threads)
    return {"benchmark": "replay", "rows": table, **made_by}


def main(out: Path | None = None, rounds: int = 15) -> None:
    """Replay against TorchRL's SliceSampler: prints a table.

    Args:
        out: JSON file for the report.
        rounds: interleaved rounds of each measurement.
    """
    report = run(rounds=rounds)
    print(_markdown(report["rows"]))
    if out:
        write_json(out, report)


if __name__ == "__main__":
    tyro.cli(main)
