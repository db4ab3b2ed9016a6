"""Affine maps that add their bias late, against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from worldloom_rl.kernels.late_bias import affine, stacked_affine


@pytest.fixture(params=[False, True], ids=["plain", "compiled"], autouse=True)
def compiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: request.param)


@pytest.mark.parametrize("shape", [(1, 6), (5, 6), (2, 5, 6)])
@pytest.mark.parametrize("outputs", [8, 101])  # the second is padded
@torch.no_grad()
def test_an_affine_map_is_pytorchs(shape: tuple[int, ...], outputs: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(outputs, 6), torch.randn(outputs)
    torch.testing.assert_close(affine(x, weight, bias), F.linear(x, weight, bias))


@torch.no_grad()
def test_stacked_maps_are_each_pytorchs() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 5, 6), torch.randn(3, 4, 6), torch.randn(3, 4)
    expected = torch.stack([F.linear(*member) for member in zip(x, weight, bias, strict=True)])
    torch.testing.assert_close(stacked_affine(x, weight, bias), expected)
