"""The reparameterised Gaussian against scipy and hand-computed gradients."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from worldloom_rl import GeneratorNoise, ModeNoise, ReplayNoise
from worldloom_rl.latents import GaussianLatent


def seeded() -> GeneratorNoise:
    return GeneratorNoise(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_gaussian_values_have_the_shape_of_the_spec_and_lie_in_it(batch):
    latent = GaussianLatent(4)
    value = latent.sample(torch.randn(*batch, 8), seeded())
    assert value.shape == latent.mode(torch.randn(*batch, 8)).shape == (*batch, 4)
    assert latent.spec(batch).is_in(value)
    assert torch.equal(latent.features(value), value)
    assert (latent.shape, latent.parameters_width, latent.features_width) == ((4,), 8, 4)


def test_samples_follow_the_normal_distribution_of_their_parameters():
    parameters = torch.tensor([1.5, -0.3], dtype=torch.float64)
    values = GaussianLatent(1, min_std=0.1).sample(parameters.expand(20_000, 2), seeded())
    expected = stats.norm(1.5, math.log1p(math.exp(-0.3)) + 0.1)
    assert stats.kstest(values.flatten().numpy(), expected.cdf).pvalue > 0.01


def test_gradients_are_one_for_the_mean_and_epsilon_times_sigmoid_for_the_raw_deviation():
    parameters = torch.tensor([0.5, -1.0, 0.2, 2.0], dtype=torch.float64, requires_grad=True)
    epsilon = torch.tensor([0.7, -1.3], dtype=torch.float64)
    GaussianLatent(2).sample(parameters, ReplayNoise({"stochastic": [epsilon]})).sum().backward()
    expected = torch.cat([torch.ones(2, dtype=torch.float64), epsilon * parameters.detach()[2:].sigmoid()])
    torch.testing.assert_close(parameters.grad, expected)


def test_the_deviation_stays_above_min_std():
    _, std = GaussianLatent(1, min_std=0.3).mean_and_std(torch.tensor([0.0, -1000.0]))
    assert std.item() == pytest.approx(0.3)


def test_the_mode_is_the_mean_and_what_mode_noise_samples():
    parameters = torch.tensor([0.5, -1.0, 0.2, 2.0])
    assert GaussianLatent(2).mode(parameters).tolist() == [0.5, -1.0]
    assert GaussianLatent(2).sample(parameters, ModeNoise()).tolist() == [0.5, -1.0]


def test_a_deviation_floor_of_zero_is_refused():
    with pytest.raises(ValueError, match="min_std must be positive, got 0"):
        GaussianLatent(2, min_std=0.0)


def test_gaussian_parameters_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"GaussianLatent expects parameters of last dimension 4, got shape \(2,\)"):
        GaussianLatent(2).sample(torch.zeros(2), seeded())
