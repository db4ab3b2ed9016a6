"""Simplicial normalisation against a loop of softmaxes."""

from __future__ import annotations

import pytest
import torch

from worldloom_rl import GeneratorNoise
from worldloom_rl.latents import SimNormLatent


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_simnorm_values_have_the_shape_of_the_spec_and_lie_in_it(batch):
    latent = SimNormLatent(12, 4)
    value = latent.mode(torch.randn(*batch, 12))
    assert value.shape == (*batch, 12)
    assert latent.spec(batch).is_in(value)
    assert torch.equal(latent.features(value), value)
    assert (latent.shape, latent.parameters_width, latent.features_width) == ((12,), 12, 12)


def test_every_group_is_the_softmax_of_its_own_numbers():
    torch.manual_seed(0)
    parameters = torch.randn(3, 12)
    expected = torch.cat([parameters[:, i : i + 4].softmax(-1) for i in (0, 4, 8)], -1)
    value = SimNormLatent(12, 4).mode(parameters)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(value.sum(-1), torch.full((3,), 3.0))


def test_sampling_draws_nothing_and_equals_the_mode():
    parameters = torch.randn(3, 12)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    value = SimNormLatent(12, 4).sample(parameters, GeneratorNoise(generator))
    assert torch.equal(value, SimNormLatent(12, 4).mode(parameters))
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize(("width", "group"), [(10, 4), (8, 0), (8, -2)])
def test_a_group_that_does_not_divide_the_width_is_refused(width, group):
    with pytest.raises(ValueError, match=f"got width {width} and group {group}"):
        SimNormLatent(width, group)


def test_simnorm_parameters_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"SimNormLatent expects parameters of last dimension 8, got shape \(16,\)"):
        SimNormLatent(8, 4).mode(torch.zeros(16))
