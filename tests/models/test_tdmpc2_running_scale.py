"""TD-MPC2's running scale against numpy's percentiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldloom_rl.models.tdmpc2.behavior import RunningScale


@pytest.mark.parametrize("shape", [(1,), (2,), (20,), (101,), (256, 1), (7, 13, 1)])
def test_one_full_update_is_numpys_range_between_the_5th_and_95th_percentile(shape):
    values = np.random.default_rng(0).normal(0, 30, shape)
    scale = RunningScale(rate=1.0)
    scale.update(torch.from_numpy(values))
    low, high = np.percentile(values, [5, 95])
    assert scale.value.item() == pytest.approx(max(high - low, 1.0), rel=1e-6)


def test_updates_move_the_scale_by_the_rate():
    scale = RunningScale(rate=0.1)
    expected = 1.0
    rng = np.random.default_rng(0)
    for _ in range(5):
        values = rng.normal(0, 30, (64, 1)).astype(np.float32)
        scale.update(torch.from_numpy(values))
        expected += 0.1 * (np.percentile(values, 95) - np.percentile(values, 5) - expected)
    assert scale.value.item() == pytest.approx(expected, rel=1e-5)


def test_the_scale_never_falls_below_one():
    scale = RunningScale(rate=1.0)
    scale.update(torch.zeros(10))
    assert scale(torch.tensor([3.0])).item() == 3.0


def test_the_scale_divides_and_gives_gradient_to_its_input_only():
    scale = RunningScale(rate=1.0)
    x = torch.linspace(-100, 100, 201, requires_grad=True)
    scale.update(x)
    assert scale.value.item() == pytest.approx(180.0, rel=1e-6)
    scale(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((201,), 1 / 180))
    assert not scale.value.requires_grad


def test_the_scale_is_saved_with_its_module():
    scale, other = RunningScale(rate=1.0), RunningScale(rate=1.0)
    scale.update(torch.linspace(0, 100, 101))
    other.load_state_dict(scale.state_dict())
    assert other.value.item() == pytest.approx(90.0)
