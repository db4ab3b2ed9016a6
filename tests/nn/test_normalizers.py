"""Running statistics against numpy's percentiles and moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldloom_rl.nn.normalizers import MeanStd, PercentileRange, RunningScale


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


@pytest.mark.parametrize("shape", [(1,), (20,), (101,), (16, 15)])
def test_a_full_update_of_the_percentile_range_is_numpys(shape):
    values = np.random.default_rng(0).normal(3, 30, shape).astype(np.float32)
    normalizer = PercentileRange(rate=1.0, low_percent=10, high_percent=80)
    normalizer.update(torch.from_numpy(values))
    low, high = np.percentile(values, [10, 80])
    assert normalizer.offset().item() == pytest.approx(low, rel=1e-5)
    assert normalizer.scale().item() == pytest.approx(max(high - low, 1.0), rel=1e-5)


def test_a_full_update_of_mean_and_deviation_is_numpys():
    values = np.random.default_rng(0).normal(3, 30, (16, 15)).astype(np.float32)
    normalizer = MeanStd(rate=1.0)
    normalizer.update(torch.from_numpy(values))
    assert normalizer.offset().item() == pytest.approx(values.mean(), rel=1e-5)
    assert normalizer.scale().item() == pytest.approx(values.std(), rel=1e-5)


def test_the_percentile_range_grows_from_zero_by_the_rate():
    normalizer = PercentileRange(rate=0.1)
    x = torch.linspace(-100, 100, 201)
    for expected in (18.0, 34.2, 48.78):  # 180 (1 − 0.9ⁿ)
        normalizer.update(x)
        assert normalizer.scale().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("normalizer", [PercentileRange(rate=0.1, debias=True), MeanStd(rate=0.1)])
def test_without_bias_the_first_update_counts_fully(normalizer):
    assert normalizer.offset().item() == 0.0
    normalizer.update(torch.full((10,), 7.0))
    assert normalizer.offset().item() == pytest.approx(7.0, rel=1e-5)


@pytest.mark.parametrize("make", [PercentileRange, MeanStd])
@pytest.mark.parametrize("debias", [False, True])
def test_running_statistics_are_saved_with_their_module(make, debias):
    normalizer, other = make(rate=0.1, debias=debias), make(rate=0.1, debias=debias)
    normalizer.update(torch.linspace(-100, 90, 101))
    assert ("correction" in normalizer.state_dict()) == debias
    other.load_state_dict(normalizer.state_dict())
    assert torch.equal(other.offset(), normalizer.offset())
    assert torch.equal(other.scale(), normalizer.scale())


@pytest.mark.parametrize("make", [PercentileRange, MeanStd])
def test_running_statistics_are_scalars_without_gradient_that_later_updates_leave_as_they_are(make):
    normalizer = make(rate=0.5, debias=False)
    x = torch.linspace(-100, 90, 101, requires_grad=True)
    normalizer.update(x)
    offset, scale = normalizer.offset(), normalizer.scale()
    before = offset.item(), scale.item()
    assert offset.shape == scale.shape == ()
    assert not offset.requires_grad
    assert not scale.requires_grad
    normalizer.update(x * 10)
    assert (offset.item(), scale.item()) == before


@pytest.mark.parametrize("make", [PercentileRange, MeanStd])
def test_running_statistics_work_on_the_meta_device(make):
    normalizer = make(debias=True).to("meta")
    normalizer.update(torch.empty(16, 15, device="meta"))
    assert normalizer.scale().is_meta
    with torch.device("meta"):
        assert make(debias=True).scale().is_meta


def test_running_statistics_refuse_settings_out_of_range():
    with pytest.raises(ValueError, match=r"rate is the share of a new statistic in \(0, 1\], got 0"):
        PercentileRange(rate=0.0)
    with pytest.raises(ValueError, match="limit is the least scale and must be positive, got 0"):
        MeanStd(limit=0.0)
    with pytest.raises(ValueError, match=r"ascend in \[0, 100\], got 95 and 5"):
        PercentileRange(low_percent=95, high_percent=5)
