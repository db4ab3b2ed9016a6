"""Transformer parts: attention and the plain pre-norm block.

All work on sequences [..., L, D]. A mask is bool [L, L], True where the row's token may see the column's; `causal_mask`
and `frame_causal_mask` make the usual ones. Dropout is a function passed in, so that its draws have a source.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldloom_rl.kernels.attention import attend
from worldloom_rl.noise import Noise

Drop = Callable[[Tensor], Tensor]


def keep_all(x: Tensor) -> Tensor:
    """x: no dropout."""
    return x


def dropout(noise: Noise, rate: float) -> Drop:
    """A function that zeroes entries with probability `rate`, by draws named "dropout", and scales the others up."""
    if rate == 0.0:
        return keep_all
    return lambda x: x * noise.keep("dropout", x.shape, rate, x) / (1.0 - rate)


def causal_mask(length: int, like: Tensor) -> Tensor:
    """[L, L] bool: a token sees itself and those before it."""
    return frame_causal_mask(length, 1, like)


def frame_causal_mask(frames: int, tokens: int, like: Tensor) -> Tensor:
    """[L, L] bool with L = frames · tokens, time-major: a token sees all tokens of its own frame and of those before.

    Args:
        like: says the device.
    """
    frame = torch.arange(frames, device=like.device).repeat_interleave(tokens)
    return frame.unsqueeze(-1) >= frame


class Attention(nn.Module):
    """Multi-head self-attention [..., L, D] → [..., L, D], scaled by 1/√(head width); no norm of its own.

    Args:
        head_width: by default width / heads.
        bias: of the projection to queries, keys and values, whose rows are in thirds; the output always has one.
    """

    def __init__(self, width: int, heads: int, head_width: int | None = None, *, bias: bool = True) -> None:
        super().__init__()
        if head_width is None and width % heads:
            raise ValueError(f"A width of {width} cannot be shared by {heads} heads; choose a multiple, or head_width.")
        self.heads = heads
        inner = heads * (head_width or width // heads)
        self.query_key_value = nn.Linear(width, 3 * inner, bias=bias)
        self.output = nn.Linear(inner, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, drop: Drop = keep_all) -> Tensor:
        heads = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(-3, -2) for part in heads.unbind(-3))  # [..., heads, L, head width]
        if drop is keep_all:
            mixed = attend(query, key, value, mask)
        else:
            logits = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
            if mask is not None:
                logits = logits.masked_fill(~mask, -torch.inf)
            mixed = drop(logits.softmax(-1)) @ value
        return drop(self.output(mixed.transpose(-3, -2).flatten(-2)))


class FeedForward(nn.Module):
    """Linear, GELU (exact), Linear on the last axis; no norm of its own."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Tensor, drop: Drop = keep_all) -> Tensor:
        return drop(self.contract(drop(F.gelu(self.expand(x)))))


class TransformerBlock(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        head_width: int | None = None,
        bias: bool = True,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps)
        self.attention = Attention(width, heads, head_width, bias=bias)
        self.feed_forward_norm = nn.LayerNorm(width, eps)
        self.feed_forward = FeedForward(width, hidden)

    def forward(self, x: Tensor, mask: Tensor | None = None, drop: Drop = keep_all) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask, drop)
        x = x + self.feed_forward(self.feed_forward_norm(x), drop)
        return x
