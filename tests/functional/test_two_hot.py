"""Two-hot regression against a hand-computed table, scipy's interpolation and torch's cross-entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldloom_rl.functional.two_hot import soft_cross_entropy, two_hot, two_hot_mean

E = math.e


@pytest.mark.parametrize(
    ("x", "weights"),
    [  # five bins at −2, −1, 0, 1, 2 of symlog space
        (0.0, [0, 0, 1, 0, 0]),
        (E - 1, [0, 0, 0, 1, 0]),
        (1 - E, [0, 1, 0, 0, 0]),
        (E**0.25 - 1, [0, 0, 0.75, 0.25, 0]),
        (1 - E**1.5, [0.5, 0.5, 0, 0, 0]),
        (E**2 - 1, [0, 0, 0, 0, 1]),
        (1e6, [0, 0, 0, 0, 1]),
        (-1e6, [1, 0, 0, 0, 0]),
    ],
)
def test_two_hot_matches_the_hand_computed_table(x, weights):
    given = torch.tensor([x], dtype=torch.float64)
    expected = torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(two_hot(given, -2.0, 2.0, 5), expected, rtol=0, atol=1e-9)


def test_two_hot_agrees_with_linear_interpolation_of_unit_vectors():
    x = torch.linspace(-30_000, 30_000, 1001, dtype=torch.float64).unsqueeze(-1)
    bins = np.linspace(-10, 10, 101)
    position = np.clip(np.sign(x.numpy()) * np.log1p(np.abs(x.numpy())), -10, 10).squeeze(-1)
    expected = np.stack([np.interp(position, bins, unit) for unit in np.eye(101)], -1)
    np.testing.assert_allclose(two_hot(x, -10.0, 10.0, 101).numpy(), expected, atol=1e-9)


@given(st.floats(-22_000, 22_000))
def test_two_hot_mean_inverts_two_hot_inside_the_bins(x):
    given_x = torch.tensor([x], dtype=torch.float64)
    weights = two_hot(given_x, -10.0, 10.0, 101)
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert bool((weights >= 0).all())
    mean = two_hot_mean(weights.log(), -10.0, 10.0)
    torch.testing.assert_close(mean, given_x, rtol=1e-6, atol=1e-9)


def test_equal_logits_mean_zero_because_the_bins_are_symmetric():
    assert two_hot_mean(torch.zeros(3, 4, 101), -10.0, 10.0).abs().max().item() < 1e-5


def test_soft_cross_entropy_of_a_one_hot_target_is_torchs_cross_entropy():
    torch.manual_seed(0)
    logits, label = torch.randn(6, 5), torch.randint(5, (6,))
    expected = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    one_hot = torch.nn.functional.one_hot(label, 5).float()
    torch.testing.assert_close(soft_cross_entropy(logits, one_hot), expected)


def test_soft_cross_entropy_has_the_gradient_softmax_minus_target():
    torch.manual_seed(0)
    logits, target = torch.randn(6, 5, requires_grad=True), torch.rand(6, 5).softmax(-1)
    soft_cross_entropy(logits, target).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - target)


def test_soft_cross_entropy_broadcasts_one_target_over_an_ensemble():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 6, 5), torch.rand(6, 5).softmax(-1)
    expected = torch.stack([soft_cross_entropy(member, target) for member in logits])
    torch.testing.assert_close(soft_cross_entropy(logits, target), expected)


def test_two_hot_refuses_numbers_without_their_own_dimension():
    with pytest.raises(ValueError, match=r"last dimension of size 1, got shape \(4, 3\)"):
        two_hot(torch.zeros(4, 3), -10.0, 10.0, 101)
