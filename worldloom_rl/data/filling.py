"""Recorded episodes in a replay, for models whose rows are written to (latents), or whose windows cross episodes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import torch
from torchrl.data import Composite

from worldloom_rl.data.arrivals import Arrivals
from worldloom_rl.data.episodes import Episodes
from worldloom_rl.data.replay import Replay
from worldloom_rl.keys import IS_INIT, REWARD, STREAM, TERMINATED, TRUNCATED, as_tuple, previous_action_keys

_TOGETHER = 512  # most rows that are read at once


def fill(
    replay: Replay,
    arrivals: Arrivals,
    episodes: Episodes,
    numbers: Sequence[int],
    latent_spec: Composite | None = None,
) -> str:
    """Writes these episodes to replay, one after the other in one stream; a digest of their lengths and actions.

    Args:
        arrivals: says which observations, actions and latents a row has.
        numbers: of the episodes.
        latent_spec: of the latents, which are zeros; for arrivals with latents.
    Raises KeyError for an observation or action that the episodes lack, ValueError if they do not all fit.
    """
    rows = int(episodes.lengths[list(numbers)].sum())
    if rows > replay.capacity:
        raise ValueError(
            f"{episodes.source}: {rows} rows do not fit a replay of {replay.capacity}: allow more (capacity, "
            "replay_gb), or record fewer."
        )
    digest = hashlib.sha256()
    stored = previous_action_keys(arrivals.action_keys)
    kept = (*arrivals.observation_keys, *stored, REWARD, TERMINATED, TRUNCATED, IS_INIT)
    for episode in numbers:
        length = int(episodes.lengths[episode])
        digest.update(f"{length}".encode())
        first = int(episodes.ends[episode]) - length
        # The first part has one row more, so that digests are those of version 0.6, which read transitions.
        bounds = [0, *range(1 + _TOGETHER, length, _TOGETHER), length]
        for start, stop in pairwise(bounds):
            part = episodes.rows(first + torch.arange(start, stop))
            missing = [key for key in kept if part.get(key, default=None) is None]
            if missing:
                raise KeyError(f"{episodes.source} has no {missing}; its rows hold {sorted(map(str, part.keys()))}.")
            for key in stored:
                digest.update(part[key].contiguous().numpy().tobytes())
            part = part.select(*kept)
            part[STREAM] = torch.zeros(len(part), dtype=torch.int64)
            for key in arrivals.latent_keys:
                leaf = latent_spec[as_tuple(key)[-1]] if latent_spec is not None else None
                if leaf is None:
                    raise ValueError(f"Rows with the latent {key!r} need the latent_spec of the model.")
                part[key] = leaf.zero((len(part),))
            replay.extend(part)
    return digest.hexdigest()
