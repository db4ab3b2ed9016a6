"""Bins far apart: a hand-computed table, inversion, and sums that cancel exactly."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldloom_rl.functional.symexp_two_hot import symexp_bins, symexp_two_hot, symexp_two_hot_mean

TOP = math.expm1(20)
FIVE = torch.tensor([-10.0, -1.0, 0.0, 1.0, 10.0])


@pytest.mark.parametrize("count", [2, 3, 8, 41, 255])
def test_bins_ascend_between_symexp_of_20_and_mirror_themselves_exactly(count):
    bins = symexp_bins(count)
    assert bins.shape == (count,)
    assert bins[-1].item() == pytest.approx(TOP, rel=1e-6)
    assert torch.equal(bins, -bins.flip(0))
    assert bool((bins.diff() >= 0).all())


def test_an_odd_count_has_one_bin_at_zero_and_an_even_one_two():
    assert (symexp_bins(255) == 0).nonzero().tolist() == [[127]]
    assert (symexp_bins(8) == 0).nonzero().tolist() == [[3], [4]]


@pytest.mark.parametrize(
    ("x", "weights"),
    [
        (0.0, [0, 0, 1, 0, 0]),
        (1.0, [0, 0, 0, 1, 0]),
        (0.25, [0, 0, 0.75, 0.25, 0]),
        (-0.25, [0, 0.25, 0.75, 0, 0]),
        (3.25, [0, 0, 0, 0.75, 0.25]),
        (-10.0, [1, 0, 0, 0, 0]),
        (10.0, [0, 0, 0, 0, 1]),
        (1e12, [0, 0, 0, 0, 1]),
        (-math.inf, [1, 0, 0, 0, 0]),
    ],
)
def test_two_hot_matches_the_hand_computed_table(x, weights):
    expected = torch.tensor(weights, dtype=torch.float32)
    torch.testing.assert_close(symexp_two_hot(torch.tensor([x]), FIVE), expected, rtol=0, atol=1e-7)


def test_two_hot_of_zero_puts_its_weight_on_one_of_the_two_middle_bins_of_an_even_count():
    assert symexp_two_hot(torch.zeros(1), symexp_bins(8)).tolist() == [0, 0, 0, 0, 1, 0, 0, 0]


def test_two_hot_of_nan_is_nan_so_that_a_broken_target_is_seen():
    assert bool(symexp_two_hot(torch.tensor([math.nan]), FIVE).isnan().any())


@given(st.floats(-TOP, TOP), st.sampled_from([8, 41, 255]))
def test_two_hot_mean_inverts_two_hot_inside_the_bins(x, count):
    bins, given_x = symexp_bins(count).double(), torch.tensor([x], dtype=torch.float64)
    weights = symexp_two_hot(given_x, bins)
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert bool((weights >= 0).all())
    expected = given_x.clamp(bins[0], bins[-1])
    torch.testing.assert_close(symexp_two_hot_mean(weights.log(), bins), expected, rtol=1e-7, atol=1e-9)


def test_two_hot_reads_strided_and_half_precision_numbers():
    x = torch.tensor([[0.25, 5.0], [3.25, 5.0]])
    expected = symexp_two_hot(x[:, :1].contiguous(), FIVE)
    assert torch.equal(symexp_two_hot(x[:, :1], FIVE), expected)
    assert torch.equal(symexp_two_hot(x[:, :1].bfloat16(), FIVE), expected)


@pytest.mark.parametrize("count", [2, 3, 8, 41, 255])
@pytest.mark.parametrize("level", [0.0, -3.7, 350.0])
def test_equal_logits_mean_exactly_zero(count, level):
    assert torch.equal(symexp_two_hot_mean(torch.full((3, 4, count), level), symexp_bins(count)), torch.zeros(3, 4, 1))


def test_logits_that_mirror_themselves_mean_exactly_zero():
    torch.manual_seed(0)
    logits = torch.randn(16, 255)
    assert torch.equal(symexp_two_hot_mean(logits + logits.flip(-1), symexp_bins(255)), torch.zeros(16, 1))


def test_the_mean_is_the_expectation_of_the_bins_and_has_its_gradient():
    torch.manual_seed(0)
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    bins = FIVE.double()
    torch.testing.assert_close(symexp_two_hot_mean(logits, bins), (logits.softmax(-1) * bins).sum(-1, keepdim=True))
    assert torch.autograd.gradcheck(lambda x: symexp_two_hot_mean(x, bins), logits)


def test_half_precision_logits_are_averaged_in_float32():
    torch.manual_seed(0)
    logits, bins = torch.randn(4, 255).bfloat16(), symexp_bins(255)
    mean = symexp_two_hot_mean(logits, bins)
    assert mean.dtype == torch.float32
    assert torch.equal(mean, symexp_two_hot_mean(logits.float(), bins))


def test_encoding_and_mean_compile_without_a_graph_break():
    torch.manual_seed(0)
    bins, x, logits = symexp_bins(255), torch.randn(6, 1), torch.randn(6, 255)
    for function, argument in ((symexp_two_hot, x), (symexp_two_hot_mean, logits)):
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        assert torch.equal(compiled(argument, bins), function(argument, bins))


def test_wrong_shapes_and_counts_are_refused():
    with pytest.raises(ValueError, match=r"last dimension of size 1, got shape \(4, 3\)"):
        symexp_two_hot(torch.zeros(4, 3), FIVE)
    with pytest.raises(ValueError, match=r"bins \[K\], got \(4, 1\) and \(5,\)"):
        symexp_two_hot_mean(torch.zeros(4, 1), FIVE)
    with pytest.raises(ValueError, match="at least 2 bins, got 1"):
        symexp_bins(1)
