"""fast_mish against PyTorch's Mish, in value and gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from worldloom_rl.kernels.mish import fast_mish

POINTS = torch.cat([torch.linspace(-100, 100, 4001), torch.tensor([0.0, -1e4, 1e4, 20.0, 20.001])])


def test_fast_mish_is_torchs_mish_with_and_without_gradient():
    expected = F.mish(POINTS.double())
    for x in (POINTS, POINTS.clone().requires_grad_()):
        torch.testing.assert_close(fast_mish(x).double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(fast_mish(POINTS.double()), expected, rtol=1e-12, atol=1e-14)


def test_fast_mish_has_the_gradient_of_torchs_mish():
    ours, theirs = POINTS.double().requires_grad_(), POINTS.double().requires_grad_()
    fast_mish(ours).sum().backward()
    F.mish(theirs).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_fast_mish_leaves_its_input_as_it_was():
    x = POINTS.clone()
    fast_mish(x)
    fast_mish(x.requires_grad_())
    assert torch.equal(x.detach(), POINTS)


def test_fast_mish_passes_nan_on():
    assert fast_mish(torch.tensor([float("nan")])).isnan().all()


def test_fast_mish_of_many_numbers_is_done_in_parts_of_any_layout():
    x = torch.randn(700, 1000)
    for given in (x, x.T, x.clone().requires_grad_()):
        torch.testing.assert_close(fast_mish(given), F.mish(given), rtol=1e-5, atol=1e-6)


def test_fast_mish_goes_through_vmap():
    """TorchRL's value estimators map networks over time."""
    for x in (torch.randn(3, 7), torch.randn(3, 400, 1000)):
        torch.testing.assert_close(torch.vmap(fast_mish)(x), F.mish(x), rtol=1e-5, atol=1e-6)
