"""The stacked ensemble against a loop over members written with plain torch layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from worldloom_rl import GeneratorNoise, ReplayNoise
from worldloom_rl.kernels.mish import fast_mish
from worldloom_rl.nn.ensemble import EnsembleLinear, EnsembleMLP

MEMBERS, INPUTS, HIDDEN, OUTPUTS = 3, 5, (8, 6), 4


def build(dropout: float = 0.0, hidden: tuple[int, ...] = HIDDEN) -> EnsembleMLP:
    torch.manual_seed(0)
    ensemble = EnsembleMLP(MEMBERS, INPUTS, hidden, OUTPUTS, dropout=dropout)
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return ensemble


def by_loop(ensemble: EnsembleMLP, x: Tensor, keep: Tensor | None = None, rate: float = 0.0) -> Tensor:
    """Linear → dropout (first layer only) → LayerNorm → Mish, a member at a time, as tdmpc2's NormedLinear."""
    outputs = []
    for member in range(ensemble.members):
        hidden = x
        for index, layer in enumerate(ensemble.layers):
            assert isinstance(layer, EnsembleLinear)
            linear = nn.Linear(hidden.shape[-1], layer.bias.shape[-1])
            linear.weight.data, linear.bias.data = layer.weight[member].data, layer.bias[member].data
            hidden = linear(hidden)
            if index == 0 and keep is not None:
                hidden = hidden * keep[member] / (1 - rate)
            if layer.norm_weight is not None:
                norm = nn.LayerNorm(hidden.shape[-1])
                norm.weight.data, norm.bias.data = layer.norm_weight[member].data, layer.norm_bias[member].data
                hidden = F.mish(norm(hidden))
        outputs.append(hidden)
    return torch.stack(outputs)


@pytest.mark.parametrize("lead", [(), (7,), (2, 7), (2, 3, 4)])
def test_the_ensemble_equals_a_loop_over_its_members(lead):
    ensemble, x = build(), torch.randn(*lead, INPUTS)
    output = ensemble(x)
    assert output.shape == (MEMBERS, *lead, OUTPUTS)
    torch.testing.assert_close(output, by_loop(ensemble, x), rtol=1e-5, atol=1e-5)


def test_an_ensemble_without_hidden_layers_is_an_affine_map():
    ensemble, x = build(hidden=()), torch.randn(7, INPUTS)
    torch.testing.assert_close(ensemble(x), by_loop(ensemble, x), rtol=1e-5, atol=1e-6)


def test_chosen_members_come_in_the_order_asked():
    ensemble, x = build(), torch.randn(7, INPUTS)
    chosen = ensemble(x, members=torch.tensor([2, 0]))
    torch.testing.assert_close(chosen, ensemble(x)[[2, 0]])


def test_dropout_stands_between_the_first_linear_map_and_its_norm_with_masks_of_each_member():
    ensemble, x = build(dropout=0.25), torch.randn(7, INPUTS)
    keep = (torch.rand(MEMBERS, 7, HIDDEN[0]) > 0.25).float()
    assert not torch.equal(keep[0], keep[1])
    noise = ReplayNoise({"dropout": [keep]})
    output = ensemble(x, keep=ensemble.draw_keep(x, noise))
    assert noise.unused() == {}
    torch.testing.assert_close(output, by_loop(ensemble, x, keep, 0.25), rtol=1e-5, atol=1e-5)


def test_members_draw_different_dropout_masks():
    ensemble = build(dropout=0.5)
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    x = torch.randn(7, INPUTS)
    same = ensemble(x)
    assert torch.equal(same[0], same[1])
    dropped = ensemble(x, keep=ensemble.draw_keep(x, GeneratorNoise(torch.Generator().manual_seed(0))))
    assert not torch.allclose(dropped[0], dropped[1])


def test_without_noise_or_without_a_rate_nothing_is_dropped():
    x = torch.randn(7, INPUTS)
    assert torch.equal(build(dropout=0.5)(x), build()(x))
    assert build().draw_keep(x, ReplayNoise({})) is None


def test_detach_keeps_gradients_from_the_weights_but_not_from_the_input():
    ensemble, x = build(), torch.randn(7, INPUTS, requires_grad=True)
    ensemble(x, detach=True).sum().backward()
    assert all(parameter.grad is None for parameter in ensemble.parameters())
    detached = x.grad.clone()
    x.grad = None
    ensemble(x).sum().backward()
    torch.testing.assert_close(x.grad, detached)
    assert all(parameter.grad is not None for parameter in ensemble.parameters())


def test_gradients_equal_those_of_the_loop():
    ensemble = build().double()
    x = torch.randn(4, INPUTS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ensemble, x)


def test_gradients_of_unchosen_members_are_zero():
    ensemble = build()
    ensemble(torch.randn(7, INPUTS), members=torch.tensor([1])).square().sum().backward()
    for parameter in ensemble.parameters():
        moved = [bool(grad.any()) for grad in parameter.grad]
        assert moved == [False, True, False]


def test_the_first_hidden_layer_is_copied_neither_forwards_nor_back():
    ensemble, x = build(dropout=0.25), torch.randn(7, INPUTS, requires_grad=True)
    ensemble.activation = fast_mish
    keep = ensemble.draw_keep(x, GeneratorNoise(torch.Generator().manual_seed(0)))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        ensemble(x, keep=keep).square().sum().backward()
    copied = [event.input_shapes[0] for event in seen.events() if event.name in ("aten::copy_", "aten::clone")]
    assert copied  # of biases, for the sums with products
    assert [shape for shape in copied if sorted(shape) == sorted([MEMBERS, 7, HIDDEN[0]])] == []
