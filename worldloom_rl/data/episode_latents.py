"""Latents of recorded episodes: what a model makes of each row, its history in the episode included."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.modules import set_recurrent_mode

from worldloom_rl.data.episodes import Episodes
from worldloom_rl.keys import TERMINATED
from worldloom_rl.world_model import WorldModel


@torch.no_grad()
def episode_latents(model: WorldModel, episodes: Episodes, most: int, seed: int) -> TensorDictBase:
    """[N ≤ most] latents of rows after which the episode went on, from episodes drawn without replacement.

    Each episode is observed from its first row. What is drawn, latents included, follows from the seed alone. Raises
    ValueError if none has such a row.
    """
    firsts = episodes.lengths.cumsum(0) - episodes.lengths
    found: list[TensorDictBase] = []
    left = most
    chosen = torch.randperm(len(firsts), generator=torch.Generator().manual_seed(seed)).tolist()
    with model.drawing_from(seed), set_recurrent_mode(True):
        for episode in chosen:
            first, length = int(firsts[episode]), int(episodes.lengths[episode])
            rows = episodes.rows(torch.arange(first, first + min(length, left))).to(model.action_space.center.device)
            carry = model.initial_latent((1, len(rows)))
            latents: TensorDict = model.observe(model.write_latent(rows.unsqueeze(0), carry))[0]
            found.append(latents.select(*model.latent_keys)[~rows[TERMINATED].squeeze(-1)])
            left -= len(rows)
            if left <= 0:
                break
    if not found or not any(map(len, found)):
        raise ValueError(f"{episodes.source} holds no row after which an episode went on.")
    return torch.cat(found)
