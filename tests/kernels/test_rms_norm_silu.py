"""The fused norm against the plain one, and its written-out gradient against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldloom_rl.functional import rms_norm_silu as plain
from worldloom_rl.kernels.rms_norm_silu import rms_norm_silu

SHAPES = [(6,), (3, 6), (2, 3, 6)]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in (shape, (6,)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gradient", [False, True])
def test_the_norm_is_the_plain_one(shape: tuple[int, ...], gradient: bool) -> None:
    x, weight = inputs(shape)
    expected = plain.rms_norm_silu(x, weight, 1e-4)
    torch.testing.assert_close(rms_norm_silu(x.requires_grad_(gradient), weight, 1e-4), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_finite_differences(shape: tuple[int, ...]) -> None:
    x, weight = (each.requires_grad_() for each in inputs(shape))
    assert torch.autograd.gradcheck(lambda *given: rms_norm_silu(*given, 1e-4), (x, weight))


def test_few_digits_are_computed_in_float32() -> None:
    x, weight = inputs((3, 6), torch.bfloat16)
    value = rms_norm_silu(x, weight.float(), 1e-4)
    assert value.dtype == torch.bfloat16
    assert torch.equal(value, plain.rms_norm_silu(x, weight.float(), 1e-4))


def test_the_input_stays_unless_its_memory_is_offered() -> None:
    x, weight = inputs((3, 6))
    before = x.clone()
    value = rms_norm_silu(x, weight, 1e-4)
    assert torch.equal(x, before)
    assert torch.equal(rms_norm_silu(x, weight, 1e-4, inplace=True), value)
    assert torch.equal(x, value)
