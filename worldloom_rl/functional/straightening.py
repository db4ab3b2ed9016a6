"""Temporal straightening: latent paths without bends, along which a straight line leads to a goal."""

from __future__ import annotations

import torch
from torch import Tensor


def straightening(embedding: Tensor) -> Tensor:
    """[..., T − 2] minus the cosine between successive steps of a path [..., T, D]; −1 where it is straight.

    Reference: Hénaff et al. 2019 (doi:10.1038/s41593-019-0377-4); as a loss in stable-worldmodel, wm/loss.py.
    """
    step = embedding[..., 1:, :] - embedding[..., :-1, :]
    return -torch.cosine_similarity(step[..., :-1, :], step[..., 1:, :], dim=-1)
