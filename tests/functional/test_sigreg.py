"""SIGReg tells Gaussian embeddings from collapsed ones, whatever the batch."""

from __future__ import annotations

import math

import pytest
import torch

from worldloom_rl.functional.sigreg import sigreg


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("batch", [16, 64, 512])
def test_a_standard_normal_batch_scores_about_one(batch: int) -> None:
    score = sigreg(draws(8, batch, 12), draws(12, 256, seed=1))
    assert score.shape == (8,)
    assert 0.5 < score.mean() < 2


@pytest.mark.parametrize("batch", [16, 64, 512])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 3.0])
def test_a_collapsed_batch_scores_more_than_a_third_of_its_size_wherever_it_is(batch: int, place: float) -> None:
    assert sigreg(torch.full((1, batch, 12), place), draws(12, 256, seed=1)) > 0.35 * batch


def test_a_batch_at_the_origin_scores_the_integral_that_can_be_solved() -> None:
    # The characteristic function is 1 there: the integral of exp(−t²/2) (1 − exp(−t²/2))² over [−3, 3], by erf.
    def gaussian(rate: float) -> float:
        return math.sqrt(math.pi / rate) * math.erf(3 * math.sqrt(rate))

    expected = gaussian(0.5) - 2 * gaussian(1.0) + gaussian(1.5)
    assert expected == pytest.approx(0.40, abs=0.01)
    score = sigreg(torch.zeros(1, 10, 4), draws(4, 8), knots=129)
    assert float(score) == pytest.approx(10 * expected, rel=1e-3)


def test_a_batch_of_too_little_or_too_much_spread_scores_more() -> None:
    z, directions = draws(1, 256, 6), draws(6, 128, seed=1)
    right = sigreg(z, directions)
    assert sigreg(0.5 * z, directions) > 5 * right
    assert sigreg(2.0 * z, directions) > 5 * right
    assert sigreg(z + 0.5, directions) > 5 * right


def test_only_the_directions_of_the_draws_matter() -> None:
    z, directions = draws(2, 32, 6), draws(6, 16, seed=1)
    torch.testing.assert_close(sigreg(z, directions), sigreg(z, 7.0 * directions))


def test_time_steps_are_judged_one_by_one() -> None:
    z, directions = draws(3, 32, 6), draws(6, 16, seed=1)
    each = torch.cat([sigreg(z[t : t + 1], directions) for t in range(3)])
    torch.testing.assert_close(sigreg(z, directions), each)


def test_one_knot_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 knots, got 1"):
        sigreg(draws(1, 4, 2), draws(2, 3), knots=1)
