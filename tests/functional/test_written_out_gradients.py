"""Gradients that are written out, against finite differences; their values against the composition they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldloom_rl.functional.block_gru_update import block_gru_update
from worldloom_rl.functional.grouped_softmax import grouped_softmax, straight_through
from worldloom_rl.functional.rms_norm_silu import rms_norm_silu
from worldloom_rl.functional.symexp_two_hot import sparse_cross_entropy


def random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def both(call: torch.nn.Module, *inputs: Tensor) -> Tensor:
    """The value, the same with and without gradient."""
    with torch.no_grad():
        plain = call(*inputs)
    torch.testing.assert_close(call(*inputs), plain, rtol=1e-12, atol=1e-12)
    return plain


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
def test_rms_norm_silu(shape: tuple[int, ...]) -> None:
    x, weight = random(*shape), random(6)
    value = both(lambda *inputs: rms_norm_silu(*inputs, 1e-4), x, weight)
    torch.testing.assert_close(value, F.silu(F.rms_norm(x, (6,), weight, 1e-4)).detach())
    assert torch.autograd.gradcheck(lambda *inputs: rms_norm_silu(*inputs, 1e-4), (x, weight))


def test_the_gated_update_of_blocks() -> None:
    gates, state = random(2, 3, 12), random(3, 8)
    value = both(block_gru_update, gates, state)
    reset, candidate, update = (part.transpose(0, 1).flatten(1) for part in gates.chunk(3, -1))
    update = torch.sigmoid(update - 1)
    expected = update * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - update) * state
    torch.testing.assert_close(value, expected.detach())
    assert torch.autograd.gradcheck(block_gru_update, (gates, state))


@pytest.mark.parametrize("classes", [2, 4, 8, 9])
def test_grouped_softmax(classes: int) -> None:
    logits = random(2, 3, classes)
    torch.testing.assert_close(both(grouped_softmax, 100 * logits), (100 * logits).softmax(-1).detach())
    assert torch.autograd.gradcheck(grouped_softmax, (logits,))


def test_straight_through_passes_the_gradient_on_as_it_is() -> None:
    value, probabilities, weight = torch.eye(3, dtype=torch.float64), random(3, 3), random(3, 3).detach()
    output = straight_through(value, probabilities)
    assert torch.equal(output, value)
    (output * weight).sum().backward()
    assert torch.equal(probabilities.grad, weight)


def test_sparse_cross_entropy() -> None:
    logits, weight = random(2, 3, 7), random(2, 3, 4).detach()
    index = torch.tensor([[[0, 1, 0, 1], [2, 3, 5, 6], [6, 5, 5, 4]]]).expand(2, 3, 4)  # classes may come twice
    dense = torch.zeros(2, 3, 7, dtype=torch.float64).scatter_add(-1, index, weight)
    expected = -(dense * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(sparse_cross_entropy(logits, index, weight), expected)
    assert torch.autograd.gradcheck(lambda x: sparse_cross_entropy(x, index, weight), (logits,))
