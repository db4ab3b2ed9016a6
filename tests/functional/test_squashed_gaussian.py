"""The squashed Gaussian against torch.distributions and numerical integration."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from worldloom_rl.functional.squashed_gaussian import (
    bounded_log_std,
    gaussian_log_probability,
    squashed_log_probability,
)


def test_the_log_density_of_a_gaussian_matches_torch_distributions():
    torch.manual_seed(0)
    mean, log_std, epsilon = (torch.randn(5, 3, dtype=torch.float64) for _ in range(3))
    expected = Independent(Normal(mean, log_std.exp()), 1).log_prob(mean + epsilon * log_std.exp())
    torch.testing.assert_close(gaussian_log_probability(epsilon, log_std), expected.unsqueeze(-1))


def test_the_squashed_log_density_matches_torch_distributions_up_to_its_1e_6():
    torch.manual_seed(0)
    mean, epsilon = torch.randn(5, 3, dtype=torch.float64) / 2, torch.randn(5, 3, dtype=torch.float64)
    log_std = torch.full_like(mean, -1.0)
    action = torch.tanh(mean + epsilon * log_std.exp())
    normal = Independent(Normal(mean, log_std.exp()), 1)
    expected = TransformedDistribution(normal, TanhTransform()).log_prob(action).unsqueeze(-1)
    got = squashed_log_probability(gaussian_log_probability(epsilon, log_std), action)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_the_squashed_density_integrates_to_one():
    def density(action: float) -> float:
        x = math.atanh(action)
        log_probability = gaussian_log_probability(
            torch.tensor([(x - 0.3) / 0.5], dtype=torch.float64), torch.tensor([math.log(0.5)], dtype=torch.float64)
        )
        return squashed_log_probability(log_probability, torch.tensor([action], dtype=torch.float64)).exp().item()

    assert integrate.quad(density, -1 + 1e-9, 1 - 1e-9)[0] == pytest.approx(1.0, abs=1e-3)


def test_the_squashed_log_density_is_finite_at_the_bounds():
    assert squashed_log_probability(torch.zeros(1), torch.tensor([1.0])).item() == pytest.approx(-math.log(1e-6))


@pytest.mark.parametrize(("raw", "log_std"), [(0.0, -4.0), (100.0, 2.0), (-100.0, -10.0), (math.atanh(0.5), -1.0)])
def test_the_deviations_logarithm_is_moved_between_its_bounds(raw, log_std):
    assert bounded_log_std(torch.tensor(raw), -10.0, 2.0).item() == pytest.approx(log_std, abs=1e-5)
