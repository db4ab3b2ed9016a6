"""Sizes and numbers of the token world model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from worldloom_rl.config import WorldModelConfig, check_range, ranged


@dataclass(frozen=True)
class TokensConfig(WorldModelConfig):
    """Every number of a token world model; the defaults have the sizes that IRIS (arXiv:2209.00588) has on Atari."""

    # Tokenizer
    quantizer: Literal["vq", "vq-ema", "fsq"] = "vq"  # see `latents.quantizers`
    vocabulary: int = ranged(512, 2, 2**16)  # K, codes of "vq" and "vq-ema"
    levels: tuple[int, ...] = ranged((8, 5, 5, 5), 3, 2**10, lengths=(1, 16))  # of "fsq", whose K is their product
    decay: float = ranged(0.99, 0.0, 1.0)  # of the running means of "vq-ema"
    token_width: int = ranged(512, 1, 2**13)  # D of a code's embedding
    # channels of the first convolution; they double at each halving, up to eight times
    depth: int = ranged(64, 1, 2**10)
    # a token stands for a square of 2^halvings pixels a side: 16 tokens for 64 x 64 pixels
    halvings: int = ranged(4, 1, 8)

    # Transformer
    context: int = ranged(20, 1, 2**10)  # H, frames that a prediction sees, the present one included
    width: int = ranged(256, 1, 2**14)
    layers: int = ranged(10, 1, 64)
    attention_heads: int = ranged(4, 1, 2**8)
    reward_layers: int = ranged(1, 1, 64)
    continue_layers: int = ranged(1, 1, 64)

    # Behaviour
    feature_frames: int = ranged(2, 1, 2**10)  # latest frames that actor and critic see
    units: int = ranged(512, 1, 2**14)  # hidden width of actor, critic, reward and continue heads
    actor_layers: int = ranged(3, 1, 64)
    critic_layers: int = ranged(3, 1, 64)
    num_bins: int = ranged(255, 2, 2**14)  # of reward head and critic
    min_std: float = ranged(0.1, 1e-6, 100.0)  # of continuous actions
    max_std: float = ranged(1.0, 1e-6, 100.0)
    horizon: int = ranged(20, 1, 1000)  # imagined steps
    imagination_starts: int = ranged(1, 0, 2**10)  # last rows of each window from which behaviour is learned; 0: all
    discount: float = ranged(0.995, 0.0, 1.0)  # γ
    lambda_: float = ranged(0.95, 0.0, 1.0)  # of λ-returns
    entropy_coef: float = ranged(1e-3, 0.0, 1e6)
    slow_coef: float = ranged(1.0, 0.0, 1e6)  # of the critic's loss against its slow copy
    slow_rate: float = ranged(0.02, 0.0, 1.0)
    return_rate: float = ranged(0.01, 0.0, 1.0)  # of the running 5th and 95th percentile of returns
    return_limit: float = ranged(1.0, 1e-12, 1e12)  # least range that advantages are divided by

    # World-model loss
    # of the squared error of a pixel's colour in [0, 1], averaged over the image
    reconstruction_coef: float = ranged(1.0, 0.0, 1e6)
    codebook_coef: float = ranged(1.0, 0.0, 1e6)  # of "vq"
    commitment_coef: float = ranged(1.0, 0.0, 1e6)  # of "vq" and "vq-ema"
    # of the cross-entropy of a token of the next frame, averaged over the frame
    dynamics_coef: float = ranged(1.0, 0.0, 1e6)
    reward_coef: float = ranged(1.0, 0.0, 1e6)
    continue_coef: float = ranged(1.0, 0.0, 1e6)

    # Learning
    learning_rate: float = ranged(1e-4, 0.0, 1.0)  # of transformer and heads
    tokenizer_learning_rate: float = ranged(1e-4, 0.0, 1.0)
    # first updates, in which the tokenizer learns alone; then it stays as it is, so that the transformer's targets do
    # too. Its learning rate falls to 0 over the second half of them. 0: it always learns
    tokenizer_updates: int = ranged(0, 0, 2**31)
    behavior_start: int = ranged(0, 0, 2**31)  # updates before the behaviour begins to learn
    tokenizer_rows: int = ranged(0, 0, 2**10)  # last rows of each window that the tokenizer learns from; 0: all
    behavior_learning_rate: float = ranged(1e-4, 0.0, 1.0)
    weight_decay: float = ranged(0.01, 0.0, 1.0)  # of weight matrices of tokenizer and transformer
    # largest norm of the gradient of tokenizer, transformer with heads, and behaviour
    gradient_clip: float = ranged(10.0, 0.0, 1e12)
    batch_size: int = ranged(64, 1, 2**20)  # windows of context + 1 rows
    updates_per_step: float = ranged(0.5, 0.0, 1024.0)  # gradient updates per agent step
    min_seed_steps: int = ranged(1000, 0, 2**31)  # agent steps before learning

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("the product of levels", math.prod(self.levels), 3, 2**16)
        if self.width % self.attention_heads:
            raise ValueError(f"attention_heads {self.attention_heads} must divide width {self.width}.")
        if self.feature_frames > self.context:
            raise ValueError(f"feature_frames {self.feature_frames} must not exceed context {self.context}.")
        if self.min_std > self.max_std:
            raise ValueError(f"min_std {self.min_std} must not exceed max_std {self.max_std}.")


PRESETS = {
    "tiny": TokensConfig(
        quantizer="fsq", levels=(5, 5, 5), token_width=8, depth=8, context=3, width=64, layers=2, units=64,
        horizon=8, discount=0.99, entropy_coef=2e-2, learning_rate=3e-3, tokenizer_learning_rate=3e-3,
        tokenizer_updates=500, tokenizer_rows=1, behavior_start=1000, behavior_learning_rate=1e-3, batch_size=32,
        updates_per_step=0.5,
    ),
    "atari100k": TokensConfig(),
}  # fmt: skip
