"""How a token world model foresees: a causal transformer over the tokens and actions of the latest frames."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldloom_rl.functional.precision import at_least_float32
from worldloom_rl.latents import CodebookLatent
from worldloom_rl.models.tokens.causal_transformer import CausalTransformer
from worldloom_rl.models.tokens.config import TokensConfig
from worldloom_rl.nn.heads import TwoHotHead, silu_mlp
from worldloom_rl.nn.initialise import initialise_layers


class Outlook(NamedTuple):
    """What the transformer says of the frames after those it read, [..., T]."""

    token_logits: Tensor  # [..., T, N, K]
    reward_logits: Tensor  # [..., T, bins]
    continue_logits: Tensor  # [..., T, 1]


class Dynamics(nn.Module):
    """Frames of N tokens and the action taken from each → what comes next, by a transformer of N + 1 positions a frame.

    A position sees its own frame, action included, and the earlier ones of its stretch.

    Args:
        space: of the tokens.
        action: width of flat actions.
        config: sizes.
    """

    def __init__(self, space: CodebookLatent, action: int, config: TokensConfig) -> None:
        super().__init__()
        width = config.width
        self.tokens = space.count
        self.token_embedding = nn.Sequential(nn.Linear(space.width, width), nn.GELU(), nn.Linear(width, width))
        self.action_embedding = nn.Linear(action, width)
        self.frame_position = nn.Parameter(0.02 * torch.randn(config.context, 1, width))
        self.token_position = nn.Parameter(0.02 * torch.randn(space.count + 1, width))
        self.transformer = CausalTransformer(width, config.layers, config.attention_heads)
        self.token_head = nn.Linear(width, space.vocabulary)
        self.reward_head = TwoHotHead(width, config.units, config.reward_layers, config.num_bins)
        self.continue_head = silu_mlp(width, config.units, config.continue_layers, 1)
        for head in (self.reward_head, self.continue_head):
            initialise_layers(head)

    def forward(self, tokens: Tensor, action: Tensor, slot: Tensor, mask: Tensor) -> Outlook:
        """The outlook of every frame.

        Args:
            tokens: [B, T, N, D]; action: [B, T, A].
            slot: [B, T] or [T] int64, the frame's place in its context, below H.
            mask: as of `CausalTransformer`, over T · (N + 1) positions.
        """
        batch, time = tokens.shape[:2]
        embedded = torch.cat([self.token_embedding(tokens), self.action_embedding(action).unsqueeze(-2)], -2)
        embedded = embedded + self.frame_position[slot] + self.token_position
        return self._read(self.transformer(embedded.flatten(1, 2), mask).reshape(batch, time, self.tokens + 1, -1))

    def _read(self, hidden: Tensor) -> Outlook:
        action = hidden[..., self.tokens, :]
        return Outlook(
            at_least_float32(self.token_head(hidden[..., : self.tokens, :])),
            self.reward_head(action),
            at_least_float32(self.continue_head(action)),
        )
