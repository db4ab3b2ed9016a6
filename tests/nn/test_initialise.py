"""Initial weights against the standard deviation of a truncated normal by scipy."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import truncnorm
from torch import nn

from worldloom_rl.nn.initialise import truncated_normal_


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_the_spread_is_one_over_the_root_of_the_fan_in_and_the_tails_are_cut(scale):
    torch.manual_seed(0)
    weight = truncated_normal_(torch.empty(300, 400), 400, scale)
    assert weight.std().item() == pytest.approx(1.1368 * truncnorm.std(-2, 2) * scale / 20, rel=0.01)
    assert weight.std().item() == pytest.approx(scale / 20, rel=0.01)
    assert weight.abs().max().item() <= 2 * 1.1368 * scale / 20 * (1 + 1e-6)


def test_scale_zero_gives_zeros():
    assert truncated_normal_(torch.empty(3, 4), 4, 0.0).count_nonzero() == 0


def test_the_fan_in_of_a_block_diagonal_layer_is_that_of_all_blocks():
    torch.manual_seed(0)
    blocks = truncated_normal_(torch.empty(8, 100, 50), 800)
    assert blocks.std().item() == pytest.approx(800**-0.5, rel=0.01)


def test_a_parameter_is_filled_in_place_on_the_meta_device_too():
    layer = nn.Linear(4, 3)
    assert truncated_normal_(layer.weight, 4) is layer.weight
    assert layer.weight.requires_grad
    truncated_normal_(nn.Linear(4, 3, device="meta").weight, 4)


def test_a_fan_in_of_zero_is_refused():
    with pytest.raises(ValueError, match="positive fan_in, got 0"):
        truncated_normal_(torch.empty(3, 4), 0)
