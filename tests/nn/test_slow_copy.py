"""Slow copies of networks."""

from __future__ import annotations

import copy

import pytest
from torch import nn

from worldloom_rl.nn.slow_copy import lerp_parameters


def test_parameters_move_by_the_rate_and_buffers_stay():
    target, source = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(source.weight, 3.0)
    nn.init.constant_(source.running_mean, 3.0)
    lerp_parameters(target, source, 0.25)
    assert target.weight.tolist() == [1.5, 1.5]
    assert target.running_mean.tolist() == [0.0, 0.0]
    assert source.weight.tolist() == [3.0, 3.0]


def test_no_gradient_flows_into_the_copy():
    source = nn.Linear(2, 2)
    target = copy.deepcopy(source)
    lerp_parameters(target, source, 1.0)
    assert all(p.is_leaf and p.grad is None for p in target.parameters())


@pytest.mark.parametrize("other", [nn.Linear(3, 2), nn.Linear(1, 2), nn.Linear(2, 2, bias=False)])
def test_a_copy_of_another_structure_is_refused_even_if_it_would_broadcast(other):
    with pytest.raises(ValueError, match="the same shapes in target and source"):
        lerp_parameters(nn.Linear(2, 2), other, 0.5)
