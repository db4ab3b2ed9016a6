"""Replay's workloads: sampling windows of images and of vectors, extending, writing latents back.

TorchRL's SliceSampler holds the same observations, stored once ("no next copy": its buffer has no ("next",
observation) either), in episodes of 100 rows, and draws windows of the same size inside episodes. It keeps its cached
values, which only a buffer that is not written to can do.

On a GPU replay stays on the CPU, as in a recipe, and what was drawn is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer, SliceSampler

from speed.workload import Call, Mode, Peer, Workload
from worldloom_rl.data import Replay
from worldloom_rl.keys import STREAM

EPISODE = 100  # rows


def make_rows(observation: Tensor, latent: int = 0) -> TensorDict:
    """Rows of one stream, in truncated episodes, with observations [rows, …]."""
    number = len(observation)
    step = torch.arange(number).unsqueeze(-1) % EPISODE
    rows = TensorDict(
        {
            "observation": observation,
            "previous_action": torch.rand(number, 6),
            "reward": torch.rand(number, 1),
            "is_init": step == 0,
            "terminated": torch.zeros(number, 1, dtype=torch.bool),
            "truncated": step == EPISODE - 1,
            STREAM: torch.zeros(number, dtype=torch.int64),
        },
        batch_size=[number],
    )
    if latent:
        rows["latent", "deterministic"] = torch.zeros(number, latent)
    return rows


def images() -> Tensor:
    """10,000 images of 64 x 64 in three channels."""
    return torch.randint(256, (10_000, 3, 64, 64), dtype=torch.uint8)


def vectors() -> Tensor:
    """100,000 vectors of 24 numbers."""
    return torch.rand(100_000, 24)


def sample(observation: Tensor, windows: int, length: int) -> Call:
    """Draws windows inside episodes."""
    replay = Replay(capacity=len(observation), window=length, batch_size=windows, by="episode")
    replay.extend(make_rows(observation))
    return replay.sample


def sample_slices(observation: Tensor, windows: int, length: int) -> Call:
    """TorchRL's draw of as many windows from the same rows; its end-of-slice marks are off."""
    sampler = SliceSampler(slice_len=length, traj_key="episode", cache_values=True, truncated_key=None)
    buffer = ReplayBuffer(storage=LazyTensorStorage(len(observation)), sampler=sampler, batch_size=windows * length)
    rows = make_rows(observation).exclude(STREAM)
    buffer.extend(rows.set("episode", torch.arange(len(rows)) // EPISODE))
    return lambda: buffer.sample().reshape(windows, length)


def _sent(make: Callable[[], Call]) -> Call:
    """What `make` builds on the CPU; the results are sent to the default device."""
    device = torch.empty(0).device
    with torch.device("cpu"):
        call: Callable[[], Any] = make()
    return call if device.type == "cpu" else lambda: call().to(device)


def extend(mode: Mode) -> Call:
    """Writes a step of 16 environments."""
    with torch.device("cpu"):
        replay, rows = _written()
        step = rows[:16].clone()
        step[STREAM] = torch.arange(16) + 1
        step["is_init"], step["truncated"] = torch.ones(16, 1).bool(), torch.zeros(16, 1).bool()

    def call() -> None:
        replay.extend(step)
        step["is_init"] = torch.zeros(16, 1).bool()

    return call


def write_back(mode: Mode) -> Call:
    """Replaces the latents of a batch of sampled rows."""
    with torch.device("cpu"):
        replay, _ = _written()
        batch = replay.sample().select("replay", "latent")
    return lambda: replay.write_back(batch)


def _written() -> tuple[Replay, TensorDict]:
    rows = make_rows(images()[:5000], latent=512)
    replay = Replay(capacity=5000, window=64, batch_size=16, by="window")
    replay.extend(rows)
    return replay, rows


def _sampling(name: str, claim: str, observation: partial[Tensor], windows: int, length: int) -> Workload:
    return Workload(
        name,
        claim,
        lambda mode: _sent(lambda: sample(observation(), windows, length)),
        repeats=5,
        peers=(
            Peer(
                "torchrl",
                lambda: _sent(lambda: sample_slices(observation(), windows, length)),
                "SliceSampler with cached values over the same rows",
            ),
        ),
    )


WORKLOADS = [
    _sampling("sample-images", "replay draws 16 windows of 64 images of 64 x 64 x 3", partial(images), 16, 64),
    _sampling("sample-vectors", "replay draws 256 windows of 4 vectors of 24 numbers", partial(vectors), 256, 4),
    Workload("extend", "replay writes one step of 16 environments, images and latents", extend, repeats=5),
    Workload("write-back", "replay replaces 16 x 64 latents of 512 numbers", write_back, repeats=5),
]
