"""λ-returns against a hand-computed table and TorchRL's estimator."""

from __future__ import annotations

import math

import pytest
import torch
from torchrl.objectives.value.functional import td_lambda_return_estimate

from worldloom_rl.functional.returns import lambda_return

REWARD = torch.tensor([0.0, 1.0, 2.0, 3.0])
VALUE = torch.tensor([0.0, 10.0, 20.0, 30.0])
HALF = torch.full((4,), 0.5)


@pytest.mark.parametrize(
    ("last", "live", "expected"),
    [
        (None, [0.5, 0.5, 0.5, 0.5], [6.375, 11.5, 18.0]),
        ([0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [6.375, 11.5, 18.0]),
        ([0, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], [6.5, 12.0, 18.0]),  # cut at row 2: its value stands for what follows
        ([0, 0, 1, 0], [0.5, 0.5, 0.0, 0.5], [4.0, 2.0, 18.0]),  # terminated there: nothing follows
        ([1, 0, 0, 1], [0.0, 0.5, 0.5, 0.5], [6.375, 11.5, 18.0]),  # row 0 is the past, and row 3 is the end anyway
    ],
)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_lambda_returns_match_the_hand_computed_table(last, live, expected, dtype):
    boundary = None if last is None else torch.tensor(last, dtype=dtype)
    returns = lambda_return(REWARD, VALUE, torch.tensor(live), boundary, 0.5)
    assert returns.tolist() == expected


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("boundaries", [False, True])
def test_lambda_returns_agree_with_torchrls_estimator(lambda_, boundaries):
    torch.manual_seed(0)
    reward, value = torch.randn(2, 5, 9), torch.randn(2, 5, 9)
    terminated = (torch.rand(2, 5, 9) < 0.2) & boundaries
    last = ((torch.rand(2, 5, 9) < 0.2) & boundaries) | terminated
    arrival = [x[..., 1:].unsqueeze(-1) for x in (value, reward, last, terminated)]
    expected = td_lambda_return_estimate(0.9, lambda_, *arrival).squeeze(-1)
    returns = lambda_return(reward, value, 0.9 * (1 - terminated.float()), last, lambda_)
    torch.testing.assert_close(returns, expected, rtol=1e-5, atol=1e-6)


def test_the_first_row_is_not_read():
    reward, value, live = (torch.cat([torch.tensor([math.nan]), x[1:]]) for x in (REWARD, VALUE, HALF))
    assert lambda_return(reward, value, live, None, 0.5).tolist() == [6.375, 11.5, 18.0]


def test_lambda_returns_refuse_shapes_that_would_broadcast_and_time_of_one_row():
    with pytest.raises(ValueError, match=r"equal shapes \[\.\.\., L\], got \[\(2, 4\), \(4,\), \(2, 4\)\]"):
        lambda_return(torch.zeros(2, 4), VALUE, torch.zeros(2, 4), None, 0.5)
    with pytest.raises(ValueError, match=r"at least two rows of time, got shape \(2, 1\)"):
        lambda_return(*(torch.zeros(2, 1) for _ in range(3)), None, 0.5)
