"""The block GRU's way of many rows against that of few."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldloom_rl.kernels.wide_block_linear import MANY_ROWS
from worldloom_rl.models.dreamerv3.block_gru import BlockGRU

ROWS = 2 * MANY_ROWS + 44


def make() -> tuple[BlockGRU, tuple[Tensor, Tensor, Tensor]]:
    torch.manual_seed(0)
    core = BlockGRU(deterministic=32, stochastic=12, action=3, hidden=6, blocks=4)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.normal_(std=0.5)
    return core, (torch.randn(ROWS, 32).tanh(), torch.randn(ROWS, 12), core.embed_action(torch.randn(ROWS, 3)))


@pytest.mark.parametrize("autocast", [False, True])
def test_many_rows_go_where_few_do(autocast: bool) -> None:
    core, inputs = make()
    tolerance = {"rtol": 0.0, "atol": 0.05} if autocast else {"rtol": 1e-5, "atol": 1e-6}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        many = core(*inputs)
        few = torch.cat([core(*rows) for rows in zip(*(x.split(100) for x in inputs), strict=True)])
    assert many.dtype == torch.float32
    torch.testing.assert_close(many, few, **tolerance)
    torch.testing.assert_close(core(*inputs).detach(), few, **tolerance)  # with a gradient
