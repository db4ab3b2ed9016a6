"""Cross-entropy against a sparse target, against that of the whole target."""

from __future__ import annotations

import torch

from worldloom_rl.functional.two_hot import soft_cross_entropy
from worldloom_rl.kernels.sparse_cross_entropy import sparse_cross_entropy

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, 7, generator=GENERATOR, dtype=torch.float64)
WEIGHT = torch.randn(2, 3, 4, generator=GENERATOR, dtype=torch.float64)
INDEX = torch.tensor([[[0, 1, 0, 1], [2, 3, 5, 6], [6, 5, 5, 4]]]).expand(2, 3, 4)  # classes may come twice


def test_the_loss_is_that_of_the_whole_target() -> None:
    target = torch.zeros(2, 3, 7, dtype=torch.float64).scatter_add(-1, INDEX, WEIGHT)
    torch.testing.assert_close(sparse_cross_entropy(LOGITS, INDEX, WEIGHT), soft_cross_entropy(LOGITS, target))


def test_the_gradient_is_that_of_finite_differences() -> None:
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sparse_cross_entropy(x, INDEX, WEIGHT), (logits,))
