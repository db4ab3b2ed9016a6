"""KL divergences against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from worldloom_rl.functional.divergences import categorical_kl, gaussian_kl


def test_categorical_kl_matches_torch_distributions():
    torch.manual_seed(0)
    p, q = (torch.randn(4, 5, 3, 8, dtype=torch.float64) * 3 for _ in range(2))
    expected = kl_divergence(Independent(Categorical(logits=p), 1), Independent(Categorical(logits=q), 1))
    torch.testing.assert_close(categorical_kl(p.log_softmax(-1), q.log_softmax(-1)), expected)


def test_categorical_kl_of_two_coins_matches_the_hand_computed_number():
    p, q = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert categorical_kl(p, q).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-5)


def test_gaussian_kl_matches_torch_distributions():
    torch.manual_seed(0)
    mean_p, mean_q = (torch.randn(4, 6, dtype=torch.float64) for _ in range(2))
    std_p, std_q = (torch.rand(4, 6, dtype=torch.float64) + 0.1 for _ in range(2))
    expected = kl_divergence(Independent(Normal(mean_p, std_p), 1), Independent(Normal(mean_q, std_q), 1))
    torch.testing.assert_close(gaussian_kl(mean_p, std_p, mean_q, std_q), expected)


def test_a_divergence_from_itself_is_zero():
    torch.manual_seed(0)
    p, mean, std = torch.randn(4, 3, 8).log_softmax(-1), torch.randn(4, 6), torch.rand(4, 6) + 0.1
    assert categorical_kl(p, p).abs().max() == 0
    assert gaussian_kl(mean, std, mean, std).abs().max() == 0


def test_divergences_refuse_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"equal shapes, got \(2, 3, 4\) and \(3, 4\)"):
        categorical_kl(torch.zeros(2, 3, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"four equal shapes, got \[\(2, 3\), \(2, 3\), \(2, 3\), \(3,\)\]"):
        gaussian_kl(torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2, 3), torch.ones(3))
