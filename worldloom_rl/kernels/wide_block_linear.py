"""Blocks side by side that also read a shared input, for many rows.

Equals: `nn.block_linear.BlockLinear` with a shared input, within rounding.
Taken: by that layer for 256 rows and more where there is no gradient to take, and by DreamerV3's fast imagination.
Saved: a copy of the shared input for every block. All blocks read it in one wide product; the copy of the weights that
this needs pays from many rows on, or where it is kept for many steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldloom_rl.functional.block_gru_update import by_block, side_by_side
from worldloom_rl.kernels.transforms import transformed

MANY_ROWS = 256  # from which on a copy of the weights, or a product for each block, pays


def takes_wide_product(x: Tensor) -> bool:
    """Whether `wide_block_linear` pays for rows [N, inputs]: there are many, and there is no gradient to take."""
    return not transformed() and x.shape[0] >= MANY_ROWS and not torch.is_grad_enabled()


def shared_weight(weight: Tensor, own: int) -> Tensor:
    """[shared, outputs] a copy of the weights of the shared input, from [G, own + shared, outputs / G]."""
    shared = weight[:, own:].transpose(0, 1)
    return shared.reshape(shared.shape[0], -1)


def wide_block_linear(x: Tensor, shared: Tensor, weight: Tensor, bias: Tensor, wide: Tensor) -> Tensor:
    """[N, outputs] of x [N, inputs], of which each block reads its share, and shared [N, shared].

    Args:
        weight: [G, own + shared, outputs / G]; bias: [outputs].
        wide: of `shared_weight`.
    """
    blocks = weight.shape[0]
    y = torch.addmm(bias, shared, wide)
    own = by_block(x, blocks).to(y.dtype)
    weight = weight[:, : own.shape[-1]].to(y.dtype)
    if torch.compiler.is_compiling():  # it cannot write through the view
        return side_by_side(torch.baddbmm(by_block(y, blocks), own, weight))
    by_block(y, blocks).baddbmm_(own, weight)
    return y
