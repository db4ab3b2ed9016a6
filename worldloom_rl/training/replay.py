"""The replay of a run: as many rows as it can fill and may keep, in memory or in scratch files of its directory."""

from __future__ import annotations

import math
import shutil
import tempfile
from functools import partial
from pathlib import Path

import torch
from torchrl.data import Composite

from worldloom_rl import ranks
from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.data.codec import spared_bytes
from worldloom_rl.data.laws import MakeLaw
from worldloom_rl.keys import as_tuple
from worldloom_rl.training.options import RunConfig
from worldloom_rl.world_model import WorldModel


def make_replay(
    config: RunConfig,
    model: WorldModel,
    arrivals: Arrivals,
    *,
    window: int,
    batch_size: int,
    by: MakeLaw,
    action_spec: Composite | None = None,
    rows: int | None = None,
    scratch: str = "replay",
) -> Replay:
    """The replay of a run, within the rows and the gigabytes it may keep; of several processes, each one's part of both
    and of the batch.

    Rows above `memmap_above_gb` lie in files of the run directory while the run goes on; see `remove_scratch`.

    Args:
        by: the law by which windows are drawn.
        action_spec: of a row's action; by default the model's.
        rows: that the run brings; by default what its agent steps can.
        scratch: name of the folder of those files.
    Raises ValueError if not even one window fits, or processes cannot have equal parts.
    """
    names = config.latent_codec(model.config)
    codec = {key: names[key[-1]] for key in map(as_tuple, arrivals.latent_keys) if key[-1] in names}
    share = ranks.share(batch_size, "batch_size")
    make = partial(Replay, window=window, batch_size=share, by=by, codec=codec)
    leaves = arrivals.row_bytes(model.observation_spec, action_spec or model.action_spec, model.latent_spec)
    leaves -= spared_bytes(codec, {key: model.latent_spec[as_tuple(key)[-1]].shape for key in arrivals.latent_keys})
    row_bytes = leaves + make(capacity=1000 + window).bytes_per_row
    most = ranks.share(config.capacity, "capacity")
    rows = min(most, math.ceil(config.replay_rows() / ranks.count())) if rows is None else min(rows, most)
    if config.replay_gb is not None:
        rows = min(rows, int(config.replay_gb / ranks.count() * 1e9 / row_bytes))
    if rows < 2 * window:
        raise ValueError(
            f"Replay may keep {rows} rows of {row_bytes:.0f} bytes, but windows have {window}: "
            f"allow at least {2 * window * row_bytes / 1e9:.2g} gigabytes and {2 * window} rows (replay_gb, capacity)."
        )
    folder = None
    if rows * row_bytes > config.memmap_above_gb / ranks.count() * 1e9:
        scratch = f"{scratch}-rank{ranks.rank()}" if ranks.rank() else scratch
        folder = Path(config.run_directory) / scratch if config.run_directory else Path(tempfile.mkdtemp())
        shutil.rmtree(folder, ignore_errors=True)
    return make(
        capacity=rows, memmap_dir=folder, generator=torch.Generator().manual_seed(ranks.process_seed(config.seed))
    )


def check_window(window: int, longest: int, remedy: str) -> None:
    """Raise ValueError if no episode of so many agent steps, which has one row more, holds a window of rows."""
    if longest + 1 < window:
        raise ValueError(
            f"Episodes of {longest} agent steps are shorter than the {window - 1} that are learned from at once: "
            f"{remedy}."
        )


def remove_scratch(replay: Replay) -> None:
    """Removes a replay's memory-mapped files, if it has any."""
    scratch: str | None = getattr(replay.storage, "scratch_dir", None)
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
