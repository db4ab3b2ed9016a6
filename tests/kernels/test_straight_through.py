"""The straight-through gradient against the sum that it stands for."""

from __future__ import annotations

import torch

from worldloom_rl.functional import straight_through as plain
from worldloom_rl.kernels.straight_through import straight_through

GENERATOR = torch.Generator().manual_seed(0)
VALUE = torch.eye(3, dtype=torch.float64)
PROBABILITIES = torch.rand(3, 3, generator=GENERATOR, dtype=torch.float64)
WEIGHT = torch.randn(3, 3, generator=GENERATOR, dtype=torch.float64)


def test_the_value_and_the_gradient_are_the_plain_ones_bit_for_bit() -> None:
    for form in (straight_through, plain.straight_through):
        probabilities = PROBABILITIES.clone().requires_grad_()
        output = form(VALUE, probabilities)
        assert torch.equal(output, VALUE)
        (output * WEIGHT).sum().backward()
        assert torch.equal(probabilities.grad, WEIGHT)


def test_it_goes_through_gradients_mapped_over_a_batch() -> None:
    def loss(probabilities: torch.Tensor) -> torch.Tensor:
        return (straight_through(VALUE, probabilities) * WEIGHT * probabilities).sum()

    batch = torch.stack([PROBABILITIES, 2 * PROBABILITIES])
    expected = torch.stack([WEIGHT * VALUE + WEIGHT * row for row in batch])
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(batch), expected)
