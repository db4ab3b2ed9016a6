"""The block-diagonal GRU of DreamerV3's recurrent state-space model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldloom_rl.kernels.block_gru_update import block_gru_update, many_rows_update, takes_many_rows
from worldloom_rl.nn.block_linear import BlockLinear
from worldloom_rl.nn.mlp import NormedLinear
from worldloom_rl.nn.rms_norm import RMSNormSilu


class BlockGRU(nn.Module):
    """Deterministic state [..., D] of the next row, from state, stochastic features and action of this one.

    Args:
        deterministic: D.
        stochastic: width of the flat stochastic state.
        action: width of the flat action.
        hidden: width of each of the three embeddings.
        blocks: G.
    Reference: dreamerv3 rssm.py, _core.
    """

    def __init__(self, deterministic: int, stochastic: int, action: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.from_deterministic = NormedLinear(deterministic, hidden, None, norm=RMSNormSilu)
        self.from_stochastic = NormedLinear(stochastic, hidden, None, norm=RMSNormSilu)
        self.from_action = NormedLinear(action, hidden, None, norm=RMSNormSilu)
        self.mix = BlockLinear(deterministic, deterministic, blocks, shared=3 * hidden)
        self.mix_norm = RMSNormSilu(deterministic)
        self.gates = BlockLinear(deterministic, 3 * deterministic, blocks)

    def embed_action(self, action: Tensor) -> Tensor:
        """[..., hidden]; actions beyond ±1 count as ±1."""
        action = action / action.detach().abs().clamp(min=1)
        return self.from_action(action.to(self.from_action.weight.dtype))  # type: ignore[no-any-return]

    def forward(self, deterministic: Tensor, stochastic: Tensor, action: Tensor) -> Tensor:
        """[..., D] from flat inputs; the action as `embed_action` gives it."""
        lead = deterministic.shape[:-1]
        deterministic, stochastic, action = (x.reshape(-1, x.shape[-1]) for x in (deterministic, stochastic, action))
        shared = torch.cat([self.from_deterministic(deterministic), self.from_stochastic(stochastic), action], -1)
        mixed = self.mix_norm(self.mix(deterministic, shared))
        if takes_many_rows(mixed):
            after = many_rows_update(mixed, deterministic, self.gates.weight, self.gates.bias)
        else:
            after = block_gru_update(self.gates(mixed, joined=False), deterministic)
        return after.reshape(*lead, -1)
