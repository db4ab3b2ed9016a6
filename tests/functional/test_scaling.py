"""symlog and symexp against hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldloom_rl.functional.scaling import symexp, symlog


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (math.e - 1, 1.0), (1 - math.e, -1.0), (math.e**10 - 1, 10.0)])
def test_symlog_and_symexp_match_the_hand_computed_table(x, y):
    assert symlog(torch.tensor(x)).item() == pytest.approx(y, rel=1e-6)
    assert symexp(torch.tensor(y)).item() == pytest.approx(x, rel=1e-5)


@given(st.floats(-1e8, 1e8))
def test_symexp_inverts_symlog(x):
    value = torch.tensor(x, dtype=torch.float64)
    torch.testing.assert_close(symexp(symlog(value)), value, rtol=1e-9, atol=1e-9)


def test_symlog_has_slope_one_at_the_origin():
    x = torch.tensor([1e-6, -1e-6], dtype=torch.float64)
    torch.testing.assert_close(symlog(x) / x, torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=0)
