"""Blocks with a shared input in one wide product, against a product for each block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from worldloom_rl.kernels.wide_block_linear import MANY_ROWS, shared_weight, wide_block_linear
from worldloom_rl.nn.block_linear import BlockLinear


@pytest.mark.parametrize("compiling", [False, True])
@torch.no_grad()
def test_the_wide_product_is_one_for_each_block(monkeypatch: pytest.MonkeyPatch, compiling: bool) -> None:
    torch.manual_seed(0)
    x, shared, weight, bias = torch.randn(7, 8), torch.randn(7, 3), torch.randn(2, 4 + 3, 5), torch.randn(10)
    expected = torch.cat(
        [
            F.linear(torch.cat([own, shared], -1), of_block.t(), of_bias)
            for own, of_block, of_bias in zip(x.chunk(2, -1), weight, bias.chunk(2), strict=True)
        ],
        -1,
    )
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    torch.testing.assert_close(wide_block_linear(x, shared, weight, bias, shared_weight(weight, 4)), expected)


@torch.no_grad()
def test_the_layer_gives_many_rows_what_it_gives_few() -> None:
    torch.manual_seed(0)
    layer = BlockLinear(8, 10, 2, shared=3)
    layer.weight.normal_()
    layer.bias.normal_()
    x, shared = torch.randn(2, MANY_ROWS, 8), torch.randn(2, MANY_ROWS, 3)
    few = torch.cat([layer(*rows) for rows in zip(x.split(50, 1), shared.split(50, 1), strict=True)], 1)
    torch.testing.assert_close(layer(x, shared), few)
