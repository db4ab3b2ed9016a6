"""Groups of categoricals: distributions by chi-square tests, gradients against the probabilities'."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from worldloom_rl import GeneratorNoise, ModeNoise, ReplayNoise
from worldloom_rl.latents import CategoricalLatent
from worldloom_rl.noise import sample_index

LOGITS = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.0, 0.0, 3.0, -2.0]])


def seeded() -> GeneratorNoise:
    return GeneratorNoise(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("temperature", [None, 0.5])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_values_have_the_shape_of_the_spec_and_lie_in_it(batch, temperature):
    latent = CategoricalLatent(2, 4, temperature=temperature)
    parameters = torch.randn(*batch, 8)
    for value in (latent.sample(parameters, seeded()), latent.mode(parameters)):
        assert value.shape == (*batch, 2, 4)
        assert latent.spec(batch).is_in(value)
        assert latent.features(value).shape == (*batch, 8)
        torch.testing.assert_close(value.sum(-1), torch.ones(*batch, 2))
    assert latent.shape == (2, 4)
    assert (latent.parameters_width, latent.features_width) == (8, 8)
    assert latent.spec(batch).is_in(latent.spec(batch).zero())


@pytest.mark.parametrize("unimix", [0.0, 0.01, 0.3])
def test_samples_are_one_hot_with_the_mixed_probabilities(unimix):
    latent = CategoricalLatent(2, 4, unimix=unimix)
    values = latent.sample(LOGITS.flatten().expand(20_000, 8), seeded())
    assert set(values.unique().tolist()) == {0.0, 1.0}
    softmax = np.exp(LOGITS.double().numpy())
    expected = (1 - unimix) * softmax / softmax.sum(-1, keepdims=True) + unimix / 4
    for counts, probabilities in zip(values.sum(0).double().numpy(), expected, strict=True):
        assert stats.chisquare(counts, 20_000 * probabilities).pvalue > 0.01


def test_groups_are_drawn_independently():
    latent = CategoricalLatent(2, 2, unimix=0.0)
    first = latent.sample(torch.zeros(20_000, 4), seeded())[..., 0]
    table = np.histogram2d(first[:, 0].numpy(), first[:, 1].numpy(), bins=2)[0]
    assert stats.chi2_contingency(table).pvalue > 0.01


def test_unimix_keeps_every_probability_above_its_floor():
    latent = CategoricalLatent(1, 4, unimix=0.01)
    probabilities = latent.log_probabilities(torch.tensor([1000.0, 0.0, 0.0, 0.0])).exp()
    torch.testing.assert_close(probabilities, torch.tensor([[0.9925, 0.0025, 0.0025, 0.0025]]))


def test_log_probabilities_are_finite_and_normalised_for_extreme_logits():
    latent = CategoricalLatent(2, 4, unimix=0.01)
    log_probabilities = latent.log_probabilities(torch.tensor([1e4, -1e4, 0.0, 0.0, 50.0, -50.0, 50.0, 0.0]))
    assert bool(log_probabilities.isfinite().all())
    torch.testing.assert_close(log_probabilities.exp().sum(-1), torch.ones(2))


@pytest.mark.parametrize("which", ["sample", "mode"])
def test_the_straight_through_gradient_is_that_of_the_probabilities(which):
    latent = CategoricalLatent(2, 4, unimix=0.01)
    weight = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parameters = LOGITS.flatten().double().requires_grad_()
    value = latent.sample(parameters, seeded()) if which == "sample" else latent.mode(parameters)
    (value * weight).sum().backward()
    other = LOGITS.double().requires_grad_()
    (((1 - 0.01) * other.softmax(-1) + 0.01 / 4) * weight).sum().backward()
    torch.testing.assert_close(parameters.grad, other.grad.flatten())


def test_the_mode_is_the_likeliest_class_of_each_group():
    value = CategoricalLatent(2, 4).mode(LOGITS.flatten())
    assert value.tolist() == [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("uniform", "index"), [(0.0, 0), (0.19, 0), (0.2, 1), (0.49, 1), (0.5, 3), (0.51, 3), (1 - 2**-24, 3)]
)
def test_sample_index_is_the_class_whose_interval_holds_the_uniform_draw(uniform, index):
    probabilities = torch.tensor([0.2, 0.3, 0.0, 0.5])
    assert sample_index(probabilities, torch.tensor(uniform)).item() == index


def test_sample_index_never_leaves_the_classes_when_probabilities_sum_to_a_little_less():
    probabilities = torch.full((1000,), 1e-3) * (1 - 1e-4)
    assert sample_index(probabilities, torch.tensor(1 - 2**-24)).item() == 999


def test_sample_draws_one_uniform_number_a_group():
    latent = CategoricalLatent(2, 4)
    noise = ReplayNoise({"stochastic": [torch.tensor([[0.0, 0.999]])]})
    assert latent.sample(torch.zeros(1, 8), noise).argmax(-1).tolist() == [[0, 3]]
    assert noise.unused() == {}


def test_the_argmax_of_gumbel_softmax_follows_the_probabilities():
    latent = CategoricalLatent(2, 4, unimix=0.0, temperature=1.0)
    values = latent.sample(LOGITS.flatten().expand(20_000, 8), seeded())
    for group in range(2):
        counts = values[:, group].argmax(-1).bincount(minlength=4).double().numpy()
        expected = 20_000 * LOGITS[group].double().softmax(-1).numpy()
        assert stats.chisquare(counts, expected).pvalue > 0.01


def test_gumbel_softmax_of_two_classes_has_the_logistic_distribution_of_its_log_odds():
    # The difference of two Gumbel draws is logistic, so the log-odds are (Δ log p + L) / temperature.
    latent = CategoricalLatent(1, 2, unimix=0.0, temperature=2.0)
    values = latent.sample(torch.tensor([1.0, 0.0], dtype=torch.float64).expand(5_000, 2), seeded())[:, 0]
    log_odds = values[:, 0].log() - values[:, 1].log()
    assert stats.kstest(log_odds.numpy(), stats.logistic(loc=0.5, scale=0.5).cdf).pvalue > 0.01


def test_gumbel_softmax_nears_one_hot_when_cold_and_uniform_when_hot():
    parameters = LOGITS.flatten().expand(1000, 8)
    cold = CategoricalLatent(2, 4, temperature=1e-3).sample(parameters, seeded())
    hot = CategoricalLatent(2, 4, temperature=1e3).sample(parameters, seeded())
    assert (cold.amax(-1) > 0.99).float().mean().item() > 0.99
    assert (hot - 0.25).abs().max().item() < 0.01


def test_gumbel_softmax_has_the_gradient_of_the_softmax_it_is():
    latent = CategoricalLatent(1, 3, unimix=0.0, temperature=0.7)
    exponential = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64)
    parameters = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)

    def draw(x: torch.Tensor) -> torch.Tensor:
        return latent.sample(x, ReplayNoise({"stochastic": [exponential]}))

    assert torch.autograd.gradcheck(draw, parameters)


def test_mode_noise_draws_the_middle_of_the_cumulative_distribution():
    value = CategoricalLatent(1, 4, unimix=0.0).sample(torch.tensor([0.0, 0.0, 10.0, 0.0]), ModeNoise())
    assert value.argmax().item() == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unimix": 1.0}, r"in \[0, 1\), got 1.0"),
        ({"unimix": -0.1}, r"in \[0, 1\), got -0.1"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_bad_numbers_stop_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        CategoricalLatent(2, 4, **arguments)


def test_parameters_of_another_width_are_refused_with_both():
    with pytest.raises(
        ValueError, match=r"CategoricalLatent expects parameters of last dimension 8, got shape \(3, 7\)"
    ):
        CategoricalLatent(2, 4).mode(torch.zeros(3, 7))
