"""Softmax over few classes against PyTorch's."""

from __future__ import annotations

import pytest
import torch

from worldloom_rl.kernels.grouped_softmax import grouped_softmax

CLASSES = [2, 4, 8, 9]


def logits(classes: int) -> torch.Tensor:
    return torch.randn(2, 3, classes, generator=torch.Generator().manual_seed(classes), dtype=torch.float64)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("gradient", [False, True])
def test_the_softmax_is_pytorchs(classes: int, gradient: bool) -> None:
    given = (100 * logits(classes)).requires_grad_(gradient)
    torch.testing.assert_close(grouped_softmax(given), given.softmax(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("classes", CLASSES)
def test_the_gradient_is_that_of_finite_differences(classes: int) -> None:
    assert torch.autograd.gradcheck(grouped_softmax, (logits(classes).requires_grad_(),))
