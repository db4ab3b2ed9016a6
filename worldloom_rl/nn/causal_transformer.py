"""A plain pre-norm transformer for sequences of frames, each of several tokens, which see their frame and the past."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def frame_causal_mask(frames: Tensor, tokens: int) -> Tensor:
    """[..., T · S, T · S] bool, True where a query (row) sees a key (column): those of its own and of earlier frames.

    Args:
        frames: [..., T] int64, a number for each frame's stretch; frames of different stretches don't see each other.
        tokens: S tokens stand side by side in each frame.
    """
    time = torch.arange(frames.shape[-1], device=frames.device)
    earlier = time.unsqueeze(-1) >= time
    same = frames.unsqueeze(-1) == frames.unsqueeze(-2)
    return (earlier & same).repeat_interleave(tokens, -1).repeat_interleave(tokens, -2)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"The number of heads {heads} must divide the transformer's width {width}.")
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        split = (*x.shape[:-1], 3, self.heads, x.shape[-1] // self.heads)
        query, key, value = self.query_key_value(self.attention_norm(x)).reshape(split).movedim(-3, 0)
        query, key, value = (part.transpose(-3, -2) for part in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.attention_output(attended.transpose(-3, -2).reshape(x.shape))
        return x + self.mlp(self.mlp_norm(x))  # type: ignore[no-any-return]


class CausalTransformer(nn.Module):
    """[B, L, W] → [B, L, W]: pre-norm blocks, and a norm after the last. What a position sees is told by a mask.

    Args:
        width: W.
        layers: blocks.
        heads: of attention; must divide W.
        expansion: hidden width of the blocks' perceptrons over W.
    Reference: Vaswani et al. 2017 (arXiv:1706.03762), with the norms before the layers as in GPT-2.
    """

    def __init__(self, width: int, layers: int, heads: int, expansion: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, expansion * width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The outputs.

        Args:
            mask: bool [L, L] or [B, 1, L, L], True where a query (row) sees a key (column).
        """
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)  # type: ignore[no-any-return]
