"""The mean over symexp bins in pieces, against the plain one."""

from __future__ import annotations

import pytest
import torch

from worldloom_rl.functional import symexp_two_hot as plain
from worldloom_rl.kernels.symexp_two_hot_mean import symexp_two_hot_mean


@pytest.mark.parametrize("shape", [(), (5,), (0,), (3, 400)])  # the last in more than one piece
def test_the_mean_of_pieces_is_the_plain_one(shape: tuple[int, ...]) -> None:
    logits = torch.randn(*shape, 41, generator=torch.Generator().manual_seed(0))
    bins = plain.symexp_bins(41)
    expected = plain.symexp_two_hot_mean(logits, bins)
    assert expected.shape == (*shape, 1)
    torch.testing.assert_close(symexp_two_hot_mean(logits, bins), expected)
    torch.testing.assert_close(symexp_two_hot_mean(logits.requires_grad_(), bins).detach(), expected)
