"""Latents of recorded episodes: what a model makes of each row, its history in the episode included."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.modules import set_recurrent_mode

from worldloom_rl.data.episodes import Episodes
from worldloom_rl.keys import TERMINATED
from worldloom_rl.world_model import WorldModel


@torch.no_grad()
def episode_latents(model: WorldModel, episodes: Episodes, most: int, generator: torch.Generator) -> TensorDictBase:
    """[N ≤ most] latents of rows after which the episode went on, from episodes drawn without replacement.

    Each episode is observed from its first row. Raises ValueError if none has such a row.
    """
    firsts = episodes.lengths.cumsum(0) - episodes.lengths
    found: list[TensorDictBase] = []
    left = most
    for episode in torch.randperm(len(firsts), generator=generator).tolist():
        first, length = int(firsts[episode]), int(episodes.lengths[episode])
        rows = episodes.rows(torch.arange(first, first + min(length, left))).to(model.action_space.center.device)
        carry = model.initial_latent((1, len(rows)))
        given = model.write_latent(rows.unsqueeze(0), carry)
        with set_recurrent_mode(True):
            latents: TensorDict = model.observe(given)[0].select(*model.latent_keys)
        found.append(latents[~rows[TERMINATED].squeeze(-1)])
        left -= len(rows)
        if left <= 0:
            break
    if not found or not any(map(len, found)):
        raise ValueError(f"{episodes.source} holds no row after which an episode went on.")
    return torch.cat(found)
