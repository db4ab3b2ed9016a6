"""The block-diagonal GRU of DreamerV3's recurrent state-space model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldloom_rl.functional.block_gru_update import block_gru_update, by_block, one_block_update, side_by_side
from worldloom_rl.nn.mlp import NormedLinear
from worldloom_rl.nn.rms_norm import RMSNormSilu

MANY_ROWS = 256  # from which on a copy of the weights, or a product for each block, pays


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

    def forward(
        self, x: Tensor, shared: Tensor | None = None, *, joined: bool = True, wide: Tensor | None = None
    ) -> Tensor:
        """[..., outputs] from x [..., inputs] and, if there is one, the shared input [..., shared].

        Args:
            joined: False gives [G, N, outputs / G] with N rows in all, as the product leaves it.
            wide: `shared_weight`, where the caller keeps it for many rows.
        """
        lead = x.shape[:-1]
        x = x.reshape(-1, x.shape[-1])
        blocks = by_block(x, self.blocks)
        if shared is not None:
            shared = shared.reshape(-1, shared.shape[-1])
            if wide is None and joined and x.shape[0] >= MANY_ROWS and not torch.is_grad_enabled():
                wide = self.shared_weight()
            if wide is not None:
                return self._add_own(torch.addmm(self.bias, shared, wide), blocks).reshape(*lead, -1)
            blocks = torch.cat([blocks, shared.expand(self.blocks, -1, -1)], -1)
        y = torch.baddbmm(self.bias.view(self.blocks, 1, -1), blocks, self.weight)
        return side_by_side(y).reshape(*lead, -1) if joined else y

    def shared_weight(self) -> Tensor:
        """[shared, outputs] a copy of the weights of the shared input, for one wide product with many rows of it."""
        return self.weight[:, self.own :].transpose(0, 1).reshape(-1, self.bias.shape[0])

    def _add_own(self, y: Tensor, blocks: Tensor) -> Tensor:
        """y [N, outputs], which may be written over, and what each block makes of its share [G, N, inputs / G]."""
        own, weight = blocks.to(y.dtype), self.weight[:, : self.own].to(y.dtype)
        if torch.compiler.is_compiling():  # it cannot write through the view
            return side_by_side(torch.baddbmm(by_block(y, self.blocks), own, weight))
        by_block(y, self.blocks).baddbmm_(own, weight)
        return y


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
        return self.from_action(action / action.detach().abs().clamp(min=1))  # type: ignore[no-any-return]

    def forward(self, deterministic: Tensor, stochastic: Tensor, action: Tensor) -> Tensor:
        """[..., D] from flat inputs; the action as `embed_action` gives it."""
        lead = deterministic.shape[:-1]
        deterministic, stochastic, action = (x.reshape(-1, x.shape[-1]) for x in (deterministic, stochastic, action))
        shared = torch.cat([self.from_deterministic(deterministic), self.from_stochastic(stochastic), action], -1)
        mixed = self.mix_norm(self.mix(deterministic, shared))
        return self.next_state(mixed, deterministic).reshape(*lead, -1)

    def next_state(self, mixed: Tensor, before: Tensor, *, out: Tensor | None = None) -> Tensor:
        """[N, D] the next state from the normed mix [N, D] and the state [N, D] before.

        Args:
            out: [N, D] where many rows on a CPU go, without a gradient.
        """
        # The three gates stand side by side within each block, not within the whole.
        if mixed.shape[0] < MANY_ROWS or mixed.device.type != "cpu" or torch.is_grad_enabled():
            return block_gru_update(self.gates(mixed, joined=False), before)
        out = torch.empty_like(before, memory_format=torch.contiguous_format) if out is None else out
        number = self.gates.blocks
        shares = (x.chunk(number, -1) for x in (mixed, before, out, self.gates.bias))
        after = [
            one_block_update(torch.mm(x, weight), bias, state, place)
            for x, state, place, bias, weight in zip(*shares, self.gates.weight, strict=True)
        ]
        return torch.cat(after, -1) if torch.compiler.is_compiling() else out
