"""The gated update of DreamerV3's recurrent state, and tensors in blocks.

Reference: dreamerv3 rssm.py, _core.
"""

from __future__ import annotations

import torch
from torch import Tensor


def by_block(x: Tensor, blocks: int) -> Tensor:
    """[G, N, D / G], a view of [N, D]."""
    return torch.unflatten(x, -1, (blocks, -1)).transpose(0, 1)


def side_by_side(x: Tensor) -> Tensor:
    """[N, D] of [G, N, D / G], the other way."""
    return x.transpose(0, 1).flatten(1)


def block_gru_update(gates: Tensor, state: Tensor) -> Tensor:
    """[N, D] the next state h' = h + u (c − h),  c = tanh(σ(r) · candidate),  u = σ(update − 1).

    Args:
        gates: [G, N, 3 D / G] raw reset r, candidate and update side by side within each block.
        state: [N, D] h, block by block.
    """
    reset, candidate, update = gates.chunk(3, -1)
    before = by_block(state, gates.shape[0])
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    after = torch.lerp(before, candidate.to(before.dtype), torch.sigmoid(update - 1).to(before.dtype))
    return side_by_side(after)
