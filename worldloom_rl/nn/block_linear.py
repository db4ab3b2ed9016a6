"""Block-diagonal affine maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldloom_rl.functional.block_gru_update import by_block, side_by_side
from worldloom_rl.kernels.wide_block_linear import shared_weight, takes_wide_product, wide_block_linear


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

    def forward(self, x: Tensor, shared: Tensor | None = None, *, joined: bool = True) -> Tensor:
        """[..., outputs] from x [..., inputs] and, if there is one, the shared input [..., shared].

        Args:
            joined: False gives [G, N, outputs / G] with N rows in all, as the product leaves it.
        """
        lead = x.shape[:-1]
        x = x.reshape(-1, x.shape[-1])
        if shared is not None:
            shared = shared.reshape(-1, shared.shape[-1])
            if joined and takes_wide_product(x):
                wide = shared_weight(self.weight, self.own)
                return wide_block_linear(x, shared, self.weight, self.bias, wide).reshape(*lead, -1)
        blocks = by_block(x, self.blocks)
        if shared is not None:
            blocks = torch.cat([blocks, shared.expand(self.blocks, -1, -1)], -1)
        y = torch.baddbmm(self.bias.view(self.blocks, 1, -1), blocks, self.weight)
        return side_by_side(y).reshape(*lead, -1) if joined else y
