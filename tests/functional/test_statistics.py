"""Statistics of episode returns against hand-computed samples and simulated data sets of known mean."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from worldloom_rl.functional.statistics import (
    bootstrap_interval,
    interquartile_mean,
    mean_of_rows,
    score_text,
    share_above,
)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 9.0], 4.0),  # a quarter of three is less than one score: nothing is cut
        ([100.0, 1.0, 3.0, -50.0], 2.0),  # 1 and 3 stay
        ([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1000.0], 5.5),  # 4, 5, 6, 7 stay
        ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], 0.6),  # one cut at each end: 0 0 1 1 1
        ([-3.0] * 20, -3.0),
    ],
)
def test_interquartile_mean_matches_samples_computed_by_hand(scores: list[float], expected: float) -> None:
    assert interquartile_mean(scores) == pytest.approx(expected)
    assert interquartile_mean(sorted(scores)) == pytest.approx(expected)


def test_the_interval_holds_the_true_mean_in_about_95_of_100_data_sets() -> None:
    # Normal scores around -10, 0 and 10 in three strata: symmetric about 0, so 0 is also their interquartile mean.
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        strata = generator.normal([[-10.0], [0.0], [10.0]], 4.0, (3, 20))
        low, high = bootstrap_interval(strata.tolist(), resamples=400)
        held += low <= 0.0 <= high
    assert 0.90 <= held / 300 <= 0.985


def test_the_interval_of_many_scores_has_the_width_that_theory_gives() -> None:
    # The 25 % trimmed mean of n uniform scores on [0, 1] has variance (winsorised variance)/(0.5² n); the winsorised
    # variance is 2·0.25·0.25² + ∫ from 1/4 to 3/4 of (x - 1/2)² = 1/24, so the interval is 2·1.96·sqrt(1/(6 n)) wide.
    scores = np.random.default_rng(2).uniform(size=2000)
    low, high = bootstrap_interval([scores.tolist()], resamples=2000)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(1 / (6 * 2000)), rel=0.1)
    assert low < interquartile_mean(scores.tolist()) < high


def test_resamples_keep_to_their_strata() -> None:
    # Ten scores of 0 and ten of 100: every resample has ten of each, five of which stay. Without strata their numbers
    # would change, and the interquartile mean with them.
    assert bootstrap_interval([[0.0] * 10, [100.0] * 10]) == (50.0, 50.0)
    low, high = bootstrap_interval([[0.0] * 10 + [100.0] * 10])
    assert low < 30
    assert high > 70


def test_a_stratum_counts_by_its_scores() -> None:
    # 3 scores of 0 and 9 of 12, three cut at each end: all the zeros, and three of the 12s.
    assert bootstrap_interval([[0.0] * 3, [12.0] * 9]) == (12.0, 12.0)


def test_one_episode_or_equal_ones_have_an_interval_of_no_width() -> None:
    assert bootstrap_interval([[3.5]]) == (3.5, 3.5)
    assert bootstrap_interval([[500.0] * 20, [500.0]]) == (500.0, 500.0)


def test_a_higher_level_gives_a_wider_interval_and_the_same_scores_the_same() -> None:
    strata = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 4.0, 8.0, 16.0]]
    assert bootstrap_interval(strata) == bootstrap_interval(strata)
    narrow, wide = bootstrap_interval(strata, level=0.5), bootstrap_interval(strata, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_share_above_counts_scores_strictly_above() -> None:
    assert share_above([3.0, 1.0, 2.0, 2.0], [0.0, 1.0, 1.5, 2.0, 3.0]).tolist() == [1.0, 0.75, 0.75, 0.25, 0.0]


@pytest.mark.parametrize(
    ("score", "text"), [(-138.06, "-138.1"), (0.0, "0.000"), (-0.98, "-0.980"), (10910.305, "10,910.3"), (10.0, "10.0")]
)
def test_scores_are_written_with_digits_for_their_size(score: float, text: str) -> None:
    assert score_text(score) == text


def test_the_interval_of_the_mean_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(size=20) * 100
    interval = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", random_state=0
    ).confidence_interval
    found = bootstrap_interval([values.tolist()], statistic=mean_of_rows, resamples=10_000)
    assert found == pytest.approx((interval.low, interval.high), abs=2.0)  # of a width of 80
