"""Noise sources: what they draw, in which order, and what replaying refuses."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from worldloom_rl import GeneratorNoise, ModeNoise, ReplayNoise
from worldloom_rl.noise import Noise

LIKE = torch.zeros((), dtype=torch.float32)


def seeded(seed: int = 0) -> GeneratorNoise:
    return GeneratorNoise(torch.Generator().manual_seed(seed))


def all_draws(noise: Noise) -> list[Tensor]:
    return [
        noise.normal("a", (3, 2), LIKE),
        noise.uniform("b", (4,), LIKE),
        noise.exponential("c", (2,), LIKE),
        noise.integers("d", 7, (5,), LIKE),
        noise.permutation("e", 6, LIKE),
        noise.keep("f", (8,), 0.5, LIKE),
    ]


@pytest.mark.parametrize(
    ("draw", "distribution"),
    [
        (lambda noise: noise.normal("x", (20_000,), LIKE), stats.norm()),
        (lambda noise: noise.uniform("x", (20_000,), LIKE), stats.uniform()),
        (lambda noise: noise.exponential("x", (20_000,), LIKE), stats.expon()),
    ],
    ids=["normal", "uniform", "exponential"],
)
def test_real_draws_follow_the_named_distribution(draw, distribution):
    assert stats.kstest(draw(seeded()).numpy(), distribution.cdf).pvalue > 0.01


def test_integers_are_uniform_over_all_classes_below_high():
    counts = seeded().integers("x", 7, (14_000,), LIKE).bincount(minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_keep_is_one_with_probability_one_minus_rate():
    kept = seeded().keep("x", (20_000,), 0.2, LIKE)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert stats.binomtest(int(kept.sum()), 20_000, 0.8).pvalue > 0.01


def test_permutation_holds_every_index_once():
    drawn = seeded().permutation("x", 50, LIKE)
    assert drawn.dtype == torch.int64
    assert drawn.sort().values.tolist() == list(range(50))
    assert drawn.tolist() != list(range(50))


def test_a_seeded_generator_repeats_its_draws_and_leaves_the_global_one_alone():
    state = torch.get_rng_state()
    first, second = all_draws(seeded()), all_draws(seeded())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_generator_the_global_seed_decides_and_draws_equal_torch_functions():
    torch.manual_seed(3)
    drawn = GeneratorNoise().normal("x", (4,), LIKE)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.randn(4))


@pytest.mark.parametrize("noise", [seeded(), ModeNoise()], ids=["generator", "mode"])
def test_real_draws_take_the_dtype_of_like_and_integers_are_int64(noise):
    like = torch.zeros((), dtype=torch.float64)
    assert noise.normal("x", (2,), like).dtype == torch.float64
    assert noise.uniform("x", (2,), like).dtype == torch.float64
    assert noise.exponential("x", (2,), like).dtype == torch.float64
    assert noise.keep("x", (2,), 0.5, like).dtype == torch.float64
    assert noise.integers("x", 3, (2,), like).dtype == torch.int64
    assert noise.permutation("x", 3, like).dtype == torch.int64


def test_mode_noise_gives_the_centre_of_every_distribution():
    normal, uniform, exponential, integers, permutation, keep = all_draws(ModeNoise())
    assert normal.tolist() == [[0.0, 0.0]] * 3
    assert uniform.tolist() == [0.5] * 4
    assert exponential.tolist() == [1.0] * 2
    assert integers.tolist() == [3] * 5  # of 0 … 6: the pixel shift that leaves the image where it is
    assert permutation.tolist() == [0, 1, 2, 3, 4, 5]
    assert keep.tolist() == [1.0] * 8


def test_replay_hands_out_each_names_draws_in_order():
    noise = ReplayNoise({"a": [torch.tensor([1.0]), torch.tensor([2.0])], "b": [torch.tensor([3.0])]})
    assert noise.normal("a", (1,), LIKE).item() == 1.0
    assert noise.unused() == {"a": 1, "b": 1}
    assert noise.uniform("b", (1,), LIKE).item() == 3.0
    assert noise.exponential("a", (1,), LIKE).item() == 2.0
    assert noise.unused() == {}


def test_replay_converts_to_the_asked_dtype():
    noise = ReplayNoise({"i": [torch.tensor([2.0])], "p": [torch.tensor([1, 0])], "k": [torch.tensor([1])]})
    assert noise.integers("i", 3, (1,), LIKE).dtype == torch.int64
    assert noise.permutation("p", 2, LIKE).tolist() == [1, 0]
    assert noise.keep("k", (1,), 0.5, LIKE.double()).dtype == torch.float64


def test_replay_refuses_another_shape_and_names_both():
    noise = ReplayNoise({"sample": [torch.zeros(3, 2)]})
    with pytest.raises(ValueError, match=r"'sample' has shape \(3, 2\), but shape \(2, 3\) was asked for"):
        noise.normal("sample", (2, 3), LIKE)


def test_replay_says_what_is_left_when_a_name_has_run_out():
    noise = ReplayNoise({"sample": [], "pair": [torch.zeros(2)]})
    with pytest.raises(KeyError, match=r"No draw 'sample' of shape \(2,\) is left to replay; left are .*'pair': 1"):
        noise.normal("sample", (2,), LIKE)
    with pytest.raises(KeyError, match="unheard"):
        noise.normal("unheard", (2,), LIKE)


def test_replay_leaves_the_given_lists_untouched():
    draws = {"a": [torch.zeros(1)]}
    ReplayNoise(draws).normal("a", (1,), LIKE)
    assert len(draws["a"]) == 1
