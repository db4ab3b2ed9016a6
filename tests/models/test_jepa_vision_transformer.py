"""The vision transformer's view of an image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldloom_rl.models.jepa.vision_transformer import VisionTransformer


def test_the_vision_transformer_sees_every_patch_and_where_it_is() -> None:
    model = VisionTransformer(1, 8, 12, patch=4, dim=6, layers=1, heads=2, hidden=8)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    image = torch.randn(1, 1, 8, 12)
    token: Tensor = model(image)
    assert token.shape == (1, 6)
    for row in range(2):
        for column in range(3):
            other = image.clone()
            other[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1.0
            assert (model(other) - token).abs().max() > 1e-3
    assert (model(image.flip(-1)) - token).abs().max() > 1e-3
    with pytest.raises(ValueError, match="8 x 12 pixels cannot be cut into patches of 5 x 5"):
        VisionTransformer(1, 8, 12, patch=5, dim=6, layers=1, heads=2, hidden=8)
