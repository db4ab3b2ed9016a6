"""The block-diagonal GRU of DreamerV3's recurrent state-space model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldloom_rl.nn.mlp import NormedLinear
from worldloom_rl.nn.rms_norm import RMSNorm


class BlockLinear(nn.Module):
    """G affine maps side by side, each from its share of the input, and from all of a shared input, to its share.

    Args:
        inputs, outputs: widths over all blocks; G divides both.
        blocks: G.
        shared: width of the input that every block reads after its own share.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, *, shared: int = 0) -> None:
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ValueError(f"{blocks} blocks must divide the inputs {inputs} and the outputs {outputs}.")
        self.blocks = blocks
        self.own = inputs // blocks
        self.weight = nn.Parameter(torch.zeros(blocks, self.own + shared, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))

    @property
    def fan_in(self) -> int:
        """How many numbers enter all blocks together, a shared one once a block."""
        return self.weight.shape[0] * self.weight.shape[1]

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """[..., outputs] from x [..., inputs] and, if there is one, the shared input [..., shared]."""
        lead = x.shape[:-1]
        x = x.reshape(-1, self.blocks, self.own).transpose(0, 1)  # [G, N, own]
        y = torch.bmm(x, self.weight[:, : self.own])
        if shared is not None:
            shared = shared.reshape(1, -1, shared.shape[-1]).expand(self.blocks, -1, -1)
            y = y + torch.bmm(shared, self.weight[:, self.own :])
        return y.transpose(0, 1).reshape(*lead, -1) + self.bias


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
        self.from_deterministic = NormedLinear(deterministic, hidden, F.silu, norm=RMSNorm)
        self.from_stochastic = NormedLinear(stochastic, hidden, F.silu, norm=RMSNorm)
        self.from_action = NormedLinear(action, hidden, F.silu, norm=RMSNorm)
        self.mix = BlockLinear(deterministic, deterministic, blocks, shared=3 * hidden)
        self.mix_norm = RMSNorm(deterministic)
        self.gates = BlockLinear(deterministic, 3 * deterministic, blocks)

    def embed_action(self, action: Tensor) -> Tensor:
        """[..., hidden]; actions beyond ±1 count as ±1."""
        return self.from_action(action / action.detach().abs().clamp(min=1))  # type: ignore[no-any-return]

    def forward(self, deterministic: Tensor, stochastic: Tensor, action: Tensor) -> Tensor:
        """[..., D] from flat inputs; the action as `embed_action` gives it."""
        shared = torch.cat([self.from_deterministic(deterministic), self.from_stochastic(stochastic), action], -1)
        hidden = F.silu(self.mix_norm(self.mix(deterministic, shared)))
        # The three gates stand side by side within each block, not within the whole.
        gates = torch.unflatten(self.gates(hidden), -1, (self.gates.blocks, 3, -1))
        reset, candidate, update = (gate.flatten(-2) for gate in gates.unbind(-2))
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return update * candidate + (1 - update) * deterministic
