"""The gated update against the plain one: its written-out gradient, and its way of many rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldloom_rl.functional import block_gru_update as plain
from worldloom_rl.functional.block_gru_update import by_block
from worldloom_rl.kernels.block_gru_update import block_gru_update, many_rows_update

ROWS, BLOCKS, WIDTH = 556, 4, 32


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def test_the_plain_update_is_the_gru_of_the_paper() -> None:
    gates, state = random(2, 3, 12), random(3, 8)
    reset, candidate, update = (part.transpose(0, 1).flatten(1) for part in gates.chunk(3, -1))
    update = torch.sigmoid(update - 1)
    expected = update * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - update) * state
    torch.testing.assert_close(plain.block_gru_update(gates, state), expected)


@pytest.mark.parametrize("gradient", [False, True])
def test_the_update_is_the_plain_one(gradient: bool) -> None:
    gates, state = random(2, 3, 12), random(3, 8)
    expected = plain.block_gru_update(gates, state)
    torch.testing.assert_close(
        block_gru_update(gates.requires_grad_(gradient), state), expected, rtol=1e-12, atol=1e-12
    )


def test_the_gradient_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(
        block_gru_update, (random(2, 3, 12).requires_grad_(), random(3, 8).requires_grad_())
    )


@pytest.mark.parametrize("compiling", [False, True])
def test_many_rows_go_where_the_plain_update_sends_them(monkeypatch: pytest.MonkeyPatch, compiling: bool) -> None:
    mixed, state = random(ROWS, WIDTH, dtype=torch.float32), random(ROWS, WIDTH, dtype=torch.float32).tanh()
    weight, bias = random(BLOCKS, WIDTH // BLOCKS, 3 * WIDTH // BLOCKS).float(), random(3 * WIDTH).float()
    gates = torch.baddbmm(bias.view(BLOCKS, 1, -1), by_block(mixed, BLOCKS), weight)
    expected = plain.block_gru_update(gates, state)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    torch.testing.assert_close(many_rows_update(mixed, state, weight, bias), expected, rtol=1e-5, atol=2e-6)


def test_the_next_states_are_written_where_they_are_wanted() -> None:
    mixed, state = random(ROWS, WIDTH), random(ROWS, WIDTH).tanh()
    weight, bias = random(BLOCKS, WIDTH // BLOCKS, 3 * WIDTH // BLOCKS), random(3 * WIDTH)
    expected = many_rows_update(mixed, state, weight, bias)
    place = torch.zeros(ROWS, WIDTH + 8, dtype=torch.float64)
    assert many_rows_update(mixed, state, weight, bias, place[:, :WIDTH]).data_ptr() == place.data_ptr()
    torch.testing.assert_close(place[:, :WIDTH], expected)
    assert (place[:, WIDTH:] == 0).all()
