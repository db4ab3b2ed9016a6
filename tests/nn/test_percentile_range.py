"""The running range against numpy's percentiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldloom_rl.nn.percentile_range import PercentileRange


@pytest.mark.parametrize("shape", [(1,), (20,), (101,), (16, 15)])
def test_a_full_update_of_the_percentile_range_is_numpys(shape):
    values = np.random.default_rng(0).normal(3, 30, shape).astype(np.float32)
    normalizer = PercentileRange(rate=1.0, low_percent=10, high_percent=80)
    normalizer.update(torch.from_numpy(values))
    low, high = np.percentile(values, [10, 80])
    assert normalizer.low.item() == pytest.approx(low, rel=1e-5)
    assert normalizer.scale().item() == pytest.approx(max(high - low, 1.0), rel=1e-5)


def test_the_percentile_range_grows_from_zero_by_the_rate():
    normalizer = PercentileRange(rate=0.1)
    x = torch.linspace(-100, 100, 201)
    for expected in (18.0, 34.2, 48.78):  # 180 (1 − 0.9ⁿ)
        normalizer.update(x)
        assert normalizer.scale().item() == pytest.approx(expected, rel=1e-5)


def test_the_range_is_saved_with_its_module():
    normalizer, other = PercentileRange(rate=0.1), PercentileRange(rate=0.1)
    normalizer.update(torch.linspace(-100, 90, 101))
    assert set(normalizer.state_dict()) == {"low", "high"}
    other.load_state_dict(normalizer.state_dict())
    assert torch.equal(other.low, normalizer.low)
    assert torch.equal(other.scale(), normalizer.scale())


def test_the_scale_is_a_scalar_without_gradient_that_later_updates_leave_as_it_is():
    normalizer = PercentileRange(rate=0.5)
    x = torch.linspace(-100, 90, 101, requires_grad=True)
    normalizer.update(x)
    scale = normalizer.scale()
    before = scale.item()
    assert scale.shape == ()
    assert not scale.requires_grad
    normalizer.update(x * 10)
    assert scale.item() == before


def test_the_range_works_on_the_meta_device():
    normalizer = PercentileRange().to("meta")
    normalizer.update(torch.empty(16, 15, device="meta"))
    assert normalizer.scale().is_meta
    with torch.device("meta"):
        assert PercentileRange().scale().is_meta


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"rate is the share of a new statistic in \(0, 1\], got 0"):
        PercentileRange(rate=0.0)
    with pytest.raises(ValueError, match="limit is the least scale and must be positive, got 0"):
        PercentileRange(limit=0.0)
    with pytest.raises(ValueError, match=r"ascend in \[0, 100\], got 95 and 5"):
        PercentileRange(low_percent=95, high_percent=5)
