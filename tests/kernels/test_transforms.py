"""Every kernel under torch.func: gradients mapped over a batch are those of the plain functions, one at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldloom_rl.functional import block_gru_update as plain_block_gru_update
from worldloom_rl.functional import rms_norm_silu as plain_rms_norm_silu
from worldloom_rl.functional import straight_through as plain_straight_through
from worldloom_rl.functional import symexp_two_hot as plain_symexp_two_hot
from worldloom_rl.functional.two_hot import soft_cross_entropy
from worldloom_rl.kernels.block_gru_update import block_gru_update
from worldloom_rl.kernels.grouped_softmax import grouped_softmax
from worldloom_rl.kernels.mish import fast_mish
from worldloom_rl.kernels.rms_norm_silu import rms_norm_silu
from worldloom_rl.kernels.sparse_cross_entropy import sparse_cross_entropy
from worldloom_rl.kernels.straight_through import straight_through
from worldloom_rl.kernels.symexp_two_hot_mean import symexp_two_hot_mean
from worldloom_rl.kernels.wide_block_linear import MANY_ROWS
from worldloom_rl.nn.block_linear import BlockLinear

GENERATOR = torch.Generator().manual_seed(0)
WEIGHT, GATES, STATE = (torch.randn(shape, generator=GENERATOR) for shape in ((6,), (2, 3, 9), (3, 6)))
BINS = plain_symexp_two_hot.symexp_bins(6)
INDEX, SHARES = torch.tensor([[0, 1], [2, 3], [5, 4]]), torch.rand(3, 2, generator=GENERATOR)
TARGET = torch.zeros(3, 6).scatter(-1, INDEX, SHARES)

Form = Callable[[Tensor], Tensor]
FORMS: dict[str, tuple[Form, Form]] = {  # of x [3, 6]
    "mish": (fast_mish, F.mish),
    "grouped_softmax": (grouped_softmax, lambda x: x.softmax(-1)),
    "straight_through": (
        lambda x: straight_through(x.detach().round(), x) * x,
        lambda x: plain_straight_through.straight_through(x.detach().round(), x) * x,
    ),
    "rms_norm_silu": (
        lambda x: rms_norm_silu(x, WEIGHT, 1e-4),
        lambda x: plain_rms_norm_silu.rms_norm_silu(x, WEIGHT, 1e-4),
    ),
    "block_gru_update": (
        lambda x: block_gru_update(GATES, x),
        lambda x: plain_block_gru_update.block_gru_update(GATES, x),
    ),
    "symexp_two_hot_mean": (
        lambda x: symexp_two_hot_mean(x, BINS).clamp(-1, 1) + x,
        lambda x: plain_symexp_two_hot.symexp_two_hot_mean(x, BINS).clamp(-1, 1) + x,
    ),
    "sparse_cross_entropy": (
        lambda x: sparse_cross_entropy(x, INDEX, SHARES),
        lambda x: soft_cross_entropy(x, TARGET),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_gradients_map_over_a_batch(name: str) -> None:
    kernel, plain = FORMS[name]
    batch = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1))
    mapped = torch.vmap(torch.func.grad(lambda x: kernel(x).square().sum()))(batch)
    rows = batch.clone().requires_grad_()
    sum(plain(row).square().sum() for row in rows).backward()
    torch.testing.assert_close(mapped, rows.grad, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_layers_of_many_rows_map_over_the_input_that_blocks_share() -> None:
    layer = BlockLinear(4, 6, 2, shared=3)
    layer.weight.normal_()
    x, shared = torch.randn(MANY_ROWS, 4), torch.randn(2, MANY_ROWS, 3)
    mapped = torch.vmap(layer, (None, 0))(x, shared)
    torch.testing.assert_close(mapped, torch.stack([layer(x, each) for each in shared]))
