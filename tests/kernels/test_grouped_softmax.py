"""Softmax over few classes against PyTorch's."""

from __future__ import annotations

import pytest
import torch

from worldloom_rl.kernels import grouped_softmax as kernel
from worldloom_rl.kernels.grouped_softmax import grouped_softmax, pays_for_groups
from worldloom_rl.latents import SimNormLatent

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


@pytest.mark.parametrize("classes", CLASSES)
def test_the_second_derivative_is_that_of_finite_differences(classes: int) -> None:
    assert torch.autograd.gradgradcheck(grouped_softmax, (logits(classes).requires_grad_(),))


@pytest.mark.parametrize(
    ("classes", "vector", "taken"), [(4, 32, True), (8, 32, False), (8, 64, True), (16, 64, False)]
)
def test_many_groups_are_taken_that_fill_no_vector(
    classes: int, vector: int, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_VECTOR", vector)
    many = torch.zeros(4096 // classes, classes)
    assert pays_for_groups(many) is taken
    assert not pays_for_groups(many[1:])
    assert not pays_for_groups(many.bfloat16())


@pytest.mark.parametrize("group", [4, 8])
def test_simnorm_of_many_rows_is_pytorchs_softmax_in_value_and_gradient(
    group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_VECTOR", 64)  # as on a processor with AVX-512
    x = (10 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))).requires_grad_()
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    value = SimNormLatent(64, group).mode(x)
    assert any("_Softmax" in type(node).__name__ for node, _ in value.grad_fn.next_functions)
    expected = x.unflatten(-1, (-1, group)).softmax(-1).flatten(-2)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)
    of_row = torch.func.grad(lambda row, share: (SimNormLatent(64, group).mode(row) * share).sum())
    torch.testing.assert_close(torch.vmap(of_row)(x.detach(), weight), gradients[1], rtol=1e-6, atol=1e-6)
