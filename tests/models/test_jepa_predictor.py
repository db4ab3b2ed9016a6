"""LeWM's predictor: what it may see, and what a fresh block does."""

from __future__ import annotations

import pytest
import torch

from worldloom_rl.models.jepa.predictor import ConditionedPredictor, ModulatedBlock


def predictor(width: int = 8, outside: int = 8) -> ConditionedPredictor:
    built = ConditionedPredictor(4, outside, width, layers=2, heads=2, head_width=5, hidden=16)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return built


def test_a_fresh_modulated_block_is_the_identity_and_ignores_its_condition() -> None:
    block = ModulatedBlock(8, heads=2, hidden=16, head_width=4)
    x = torch.randn(3, 5, 8)
    assert torch.equal(block(x, torch.randn(3, 5, 8)), x)


@pytest.mark.parametrize("width", [8, 12])
def test_the_predictor_sees_nothing_of_what_comes_later(width: int) -> None:
    model = predictor(width)
    x, condition = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    before = model(x, condition)
    for changed in (0, 1):
        later = [x.clone(), condition.clone()]
        later[changed][:, 2] += torch.randn(3, 8)
        after = model(*later)
        assert torch.equal(after[:, :2], before[:, :2])
        assert (after[:, 2] - before[:, 2]).abs().max() > 1e-3


def test_a_shorter_sequence_is_the_beginning_of_a_longer_one() -> None:
    model = predictor()
    x, condition = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    torch.testing.assert_close(model(x[:, :2], condition[:, :2]), model(x, condition)[:, :2], rtol=1e-5, atol=1e-6)


def test_a_sequence_beyond_the_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="positions for 4 steps, got 5"):
        predictor()(torch.randn(1, 5, 8), torch.randn(1, 5, 8))
