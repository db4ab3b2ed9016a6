"""LaProp by hand-computed steps; the official numbers are in tests/reference/test_dreamerv3_functions.py."""

from __future__ import annotations

import copy
import io
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from worldloom_rl.training.laprop import LaProp, Schedule, constant_schedule


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def step(optimizer: LaProp, *gradients: Tensor | None) -> None:
    """One update; gradients go to the tensors in the order of the groups."""
    tensors = [p for group in optimizer.param_groups for p in group["params"]]
    for p, gradient in zip(tensors, gradients, strict=True):
        p.grad = gradient
    optimizer.step()


def test_two_steps_match_the_hand_computed_numbers():
    """Step 1: u = 1. Step 2: g = 0.3 · 9 = 2.7, ν = 0.25 + 0.5 · 2.7² = 3.895, u = 2.7 / √(3.895 / 0.75) = 1.184788."""
    p = parameter(10.0)
    optimizer = LaProp([p], lr=1.0, betas=(0.0, 0.5), warmup=0)
    step(optimizer, torch.tensor([1.0]))
    assert p.item() == pytest.approx(9.0)
    step(optimizer, torch.tensor([100.0]))
    assert p.item() == pytest.approx(9.0 - 1.184788, rel=1e-6)


def test_momentum_averages_normalised_gradients():
    """Of u = 1, then 2/√(9/3) with ν = 0.5 · 0.5 + 0.5 · 4 = 2.25: μ = (0.25 + 0.5 · 1.154701) / 0.75."""
    p = parameter(100.0)
    optimizer = LaProp([p], lr=1.0, betas=(0.5, 0.5), warmup=0, agc=math.inf)
    step(optimizer, torch.tensor([1.0]))
    assert p.item() == pytest.approx(99.0)
    step(optimizer, torch.tensor([2.0]))
    assert p.item() == pytest.approx(99.0 - (0.25 + 0.5 * 1.1547005) / 0.75, rel=1e-6)


def test_a_gradient_is_clipped_by_the_norm_of_its_whole_tensor_and_is_itself_left_as_it_is():
    """Shown by a second, small gradient: how far it moves the weights tells how large the first one counted."""
    p, q = parameter(3.0, 4.0), parameter(3.0, 4.0)
    clipped = LaProp([p], lr=1e-3, betas=(0.0, 0.5), warmup=0, agc=0.3)
    small = LaProp([q], lr=1e-3, betas=(0.0, 0.5), warmup=0, agc=math.inf)
    gradient = torch.tensor([300.0, 400.0])
    step(clipped, gradient)
    step(small, torch.tensor([0.9, 1.2]))  # norm 1.5 = 0.3 · 5
    assert gradient.tolist() == [300.0, 400.0]
    for optimizer in (clipped, small):
        step(optimizer, torch.tensor([0.1, 0.1]))
    torch.testing.assert_close(p, q, rtol=1e-6, atol=0)


def test_the_first_update_of_the_warm_up_moves_nothing_and_the_rest_rise_to_the_learning_rate():
    p = parameter(10.0)
    optimizer = LaProp([p], lr=0.1, warmup=4)
    seen = [p.item()]
    for _ in range(6):
        step(optimizer, torch.tensor([1.0]))
        seen.append(p.item())
    moved = [before - after for before, after in pairwise(seen)]
    assert moved == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1, 0.1], abs=1e-5)


def linear_schedule(steps: int, final: float = 0.1) -> Schedule:
    return lambda updates: 1.0 + (final - 1.0) * min(updates / steps, 1.0)


def test_a_schedule_follows_the_warm_up():
    optimizer = LaProp([parameter(1.0)], lr=1.0, warmup=2, schedule=linear_schedule(4, final=0.2))
    rates = []
    for _ in range(9):
        rates += optimizer.learning_rates()
        optimizer.step()
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    assert constant_schedule(10**6) == 1.0


def test_weight_decay_shrinks_only_the_group_that_asks_for_it():
    p, q = parameter(10.0), parameter(10.0)
    optimizer = LaProp([{"params": [p], "weight_decay": 0.5}, {"params": [q]}], lr=0.1, warmup=0)
    step(optimizer, torch.zeros(1), torch.zeros(1))
    assert p.item() == pytest.approx(10 - 0.1 * 0.5 * 10)
    assert q.item() == 10.0


def test_zero_weights_and_zero_gradients_give_finite_updates():
    p, q = parameter(0.0, 0.0), parameter(1.0, 2.0)
    optimizer = LaProp([p, q], lr=0.1, warmup=0)
    step(optimizer, torch.tensor([1.0, -1e-12]), torch.zeros(2))
    torch.testing.assert_close(p.detach(), torch.tensor([-0.1, 0.1]))
    assert q.tolist() == [1.0, 2.0]


def test_a_tensor_without_gradient_is_skipped_and_later_starts_with_its_own_bias_correction():
    p, late = parameter(10.0), parameter(10.0)
    optimizer = LaProp([p, late], lr=0.1, warmup=0)
    for _ in range(20):
        step(optimizer, torch.tensor([1.0]), None)
    assert late.item() == 10.0
    assert late not in optimizer.state
    step(optimizer, torch.tensor([1.0]), torch.tensor([1.0]))
    assert late.item() == pytest.approx(9.9)


def test_a_run_goes_on_exactly_after_its_state_went_through_a_file():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    gradients = [[torch.randn_like(p) for p in network.parameters()] for _ in range(8)]

    def build(module: nn.Module) -> LaProp:
        weights = [p for p in module.parameters() if p.dim() > 1]
        biases = [p for p in module.parameters() if p.dim() == 1]
        groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases}]
        return LaProp(groups, lr=1e-2, warmup=3, schedule=linear_schedule(4))

    def train(module: nn.Module, optimizer: LaProp, part: list[list[Tensor]]) -> None:
        for row in part:
            for p, gradient in zip(module.parameters(), row, strict=True):
                p.grad = gradient.clone()
            optimizer.step()

    optimizer = build(network)
    train(network, optimizer, gradients[:5])
    file = io.BytesIO()
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    resumed = copy.deepcopy(network)
    for p in resumed.parameters():
        nn.init.zeros_(p)
    other = build(resumed)
    resumed.load_state_dict(saved["network"])
    other.load_state_dict(saved["optimizer"])
    assert other.learning_rates() == optimizer.learning_rates()
    train(network, optimizer, gradients[5:])
    train(resumed, other, gradients[5:])
    for p, q in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_copy_of_the_optimizer_keeps_its_schedule():
    optimizer = copy.deepcopy(LaProp([parameter(1.0)], lr=1.0, warmup=0, schedule=linear_schedule(2, final=0.0)))
    optimizer.step()
    assert optimizer.learning_rates() == [0.5]


def test_step_returns_what_the_closure_returns_and_takes_its_gradient():
    p = parameter(2.0)
    optimizer = LaProp([p], lr=0.1, warmup=0)

    def closure() -> float:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert p.item() == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lr": -1.0}, "expects lr at least 0, got -1.0"),
        ({"betas": (1.0, 0.9)}, r"expects betas two numbers in \[0, 1\), got \(1.0, 0.9\)"),
        ({"eps": 0.0}, "expects eps above 0, got 0.0"),
        ({"agc": 0.0}, "expects agc above 0; math.inf does not clip, got 0.0"),
        ({"agc_floor": 0.0}, "expects agc_floor above 0, got 0.0"),
        ({"weight_decay": -0.1}, "expects weight_decay at least 0, got -0.1"),
        ({"warmup": -1}, "expects warmup at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused_for_all_tensors_and_for_a_group(setting, message):
    with pytest.raises(ValueError, match=message):
        LaProp([parameter(1.0)], **setting)
    optimizer = LaProp([parameter(1.0)])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [parameter(1.0)], **setting})
    assert len(optimizer.param_groups) == 1


def test_tensors_that_are_not_float32_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"float32 tensors, got others of shapes \[\(2, 3\)\].*torch.autocast"):
        LaProp([nn.Parameter(torch.zeros(2, 3, dtype=torch.bfloat16))])
