"""LeWM's predictor: a causal transformer whose blocks are modulated by a condition."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldloom_rl.nn.transformer import Attention, Drop, FeedForward, causal_mask, keep_all


class ModulatedBlock(nn.Module):
    """A block whose norms are scaled and shifted, and whose branches gated, by a condition [..., L, D] (AdaLN-zero).

    The modulation starts at zero: a fresh block is the identity and ignores its condition.

    Reference: Peebles & Xie 2023 (arXiv:2212.09748); with second, affine norms inside the branches as in LeWM.
    """

    def __init__(self, width: int, heads: int, hidden: int, head_width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.plain_norm = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, head_width, bias=False)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor | None = None, drop: Drop = keep_all) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(F.silu(condition)).chunk(6, -1)
        modulated = self.plain_norm(x) * (1 + scale_1) + shift_1
        x = x + gate_1 * self.attention(self.attention_norm(modulated), mask, drop)
        modulated = self.plain_norm(x) * (1 + scale_2) + shift_2
        x = x + gate_2 * self.feed_forward(self.feed_forward_norm(modulated), drop)
        return x


class ConditionedPredictor(nn.Module):
    """[..., L, W] outputs from inputs and conditions [..., L, W], causal over time, with learned positions.

    Positions count from the left, so that a shorter sequence is the beginning of a longer one.

    Args:
        length: the longest sequence.
        outside: W, width of inputs, conditions and outputs; linear maps bring them to `width` where that differs.
    Reference: stable-worldmodel, wm/lewm (the predictor of LeWM).
    """

    def __init__(
        self, length: int, outside: int, width: int, layers: int, heads: int, head_width: int, hidden: int
    ) -> None:
        super().__init__()
        self.length = length
        self.position = nn.Parameter(torch.randn(length, outside))
        same = outside == width
        self.input: nn.Module = nn.Identity() if same else nn.Linear(outside, width)
        self.condition: nn.Module = nn.Identity() if same else nn.Linear(outside, width)
        self.output: nn.Module = nn.Identity() if same else nn.Linear(width, outside)
        self.blocks = nn.ModuleList(ModulatedBlock(width, heads, hidden, head_width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, condition: Tensor, drop: Drop = keep_all) -> Tensor:
        steps = x.shape[-2]
        if steps > self.length:
            raise ValueError(f"The predictor has positions for {self.length} steps, got {steps}.")
        mask = causal_mask(steps, x)
        x = self.input(drop(x + self.position[:steps]))
        condition = self.condition(condition)
        for block in self.blocks:
            x = block(x, condition, mask, drop)
        predicted: Tensor = self.output(self.norm(x))
        return predicted
