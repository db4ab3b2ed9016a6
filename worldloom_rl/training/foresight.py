"""How wrong a JEPA's predictions are in episodes, as a share of foreseeing no change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase

from worldloom_rl.world_model.windowed import WindowedJEPA

Z_STD = "z_std"  # the spread of embeddings, in metrics and evaluations


@torch.no_grad()
def foresight(model: WindowedJEPA, episodes: Sequence[TensorDictBase], horizon: int) -> dict[str, float]:
    """How wrong predictions are 1 and `horizon` rows ahead, and the spread of embeddings.

    An error is squared and summed over all starts, as a share of that of foreseeing no change: 1 is no better, 0 exact.

    Args:
        episodes: rows [T] of one episode each, with goals.
    Raises ValueError if all of them are too short.
    """
    error, moved = torch.zeros(horizon, dtype=torch.float64), torch.zeros(horizon, dtype=torch.float64)
    tokens = []
    for rows in episodes:
        rows = rows.to(next(model.parameters()).device)
        latent = model.encode_latent(model.read_observation(rows), model.noise)
        truth, action = latent["tokens"], model.read_previous_action(rows)
        tokens.append(truth)
        starts = len(rows) - horizon
        if starts < 1:
            continue
        imagined = {name: value[:starts] for name, value in latent.items()}
        for ahead in range(horizon):
            arrived = slice(ahead + 1, ahead + 1 + starts)
            imagined = model.predict_latent(imagined, action[arrived], model.noise).latent
            error[ahead] += (imagined["tokens"] - truth[arrived]).double().square().sum().cpu()
            moved[ahead] += (truth[:starts] - truth[arrived]).double().square().sum().cpu()
    if not moved[0]:
        raise ValueError(f"No episode has {horizon + 1} frames, which predicting {horizon} ahead needs; lower horizon.")
    share = (error / moved).tolist()
    errors = {f"prediction_error_{count}_ahead": share[count - 1] for count in sorted({1, horizon})}
    return {**errors, Z_STD: float(torch.cat(tokens).flatten(1).std(0).mean())}
