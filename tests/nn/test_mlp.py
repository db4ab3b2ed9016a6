"""Perceptrons against torch's own layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from worldloom_rl.nn.mlp import MLP, Affine, NormedLinear


def test_a_normed_linear_layer_is_linear_then_layer_norm_then_its_activation():
    torch.manual_seed(0)
    layer, x = NormedLinear(5, 8, F.mish), torch.randn(3, 5)
    plain = F.layer_norm(F.linear(x, layer.weight, layer.bias), (8,), layer.norm.weight, layer.norm.bias)
    torch.testing.assert_close(layer(x), plain * torch.tanh(torch.log1p(torch.exp(plain))), rtol=1e-5, atol=1e-6)


def test_without_activation_a_normed_layer_has_zero_mean_and_unit_variance():
    torch.manual_seed(0)
    output = NormedLinear(5, 64, None)(torch.randn(3, 5))
    torch.testing.assert_close(output.mean(-1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(output.std(-1, correction=0), torch.ones(3), rtol=0, atol=1e-3)


def test_a_perceptron_ends_in_a_plain_linear_layer_unless_its_output_is_normed():
    torch.manual_seed(0)
    plain, normed, x = MLP(5, [8, 6], 4), MLP(5, [8, 6], 4, norm_output=True), torch.randn(3, 5)
    assert [type(layer) for layer in plain] == [NormedLinear, NormedLinear, Affine]
    hidden = plain[1](plain[0](x))
    torch.testing.assert_close(plain(x), F.linear(hidden, plain[2].weight, plain[2].bias))
    assert [type(layer) for layer in normed] == [NormedLinear] * 3
    torch.testing.assert_close(normed(x).mean(-1), torch.zeros(3), rtol=0, atol=1e-5)


def test_parameters_are_those_of_the_formula():
    # 5·8+8 with norm 2·8, 8·6+6 with norm 2·6, 6·4+4
    assert sum(parameter.numel() for parameter in MLP(5, [8, 6], 4).parameters()) == 64 + 66 + 28
