"""A vision transformer that gives one vector an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldloom_rl.nn.transformer import TransformerBlock


class VisionTransformer(nn.Module):
    """[N, D] class token of images [N, C, height, width], after pre-norm blocks over patches with learned positions.

    Reference: Dosovitskiy et al. 2021 (arXiv:2010.11929); as transformers' ViTModel without its pooler.
    """

    def __init__(
        self, channels: int, height: int, width: int, *, patch: int, dim: int, layers: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        if height % patch or width % patch:
            raise ValueError(f"Images of {height} x {width} pixels cannot be cut into patches of {patch} x {patch}.")
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.class_token = nn.Parameter(torch.empty(dim))
        self.position = nn.Parameter(torch.empty(1 + (height // patch) * (width // patch), dim))
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, hidden, eps=1e-12) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, 1e-12)
        self._initialise()

    def _initialise(self) -> None:
        """Weights, class token and positions N(0, 0.02²), biases 0, as transformers' ViTModel."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        first = self.class_token.expand(len(image), 1, -1)
        x = torch.cat([first, patches], 1) + self.position
        for block in self.blocks:
            x = block(x)
        token: Tensor = self.norm(x[:, 0])
        return token
