"""Sizes and numbers of the token world model."""

from __future__ import annotations

from dataclasses import dataclass

from worldloom_rl.config import WorldModelConfig, check_range

QUANTIZERS = ("vq", "vq-ema", "fsq")


@dataclass(frozen=True)
class TokensConfig(WorldModelConfig):
    """Every number of a token world model; the defaults have the sizes that IRIS (arXiv:2209.00588) has on Atari."""

    # Tokenizer
    quantizer: str = "vq"  # or "vq-ema" or "fsq", see `latents.quantizers`
    vocabulary: int = 512  # K, codes of "vq" and "vq-ema"
    levels: tuple[int, ...] = (8, 5, 5, 5)  # of "fsq", whose K is their product
    decay: float = 0.99  # of the running means of "vq-ema"
    token_width: int = 512  # D of a code's embedding
    depth: int = 64  # channels of the first convolution; they double at each halving, up to eight times
    halvings: int = 4  # a token stands for a square of 2^halvings pixels a side: 16 tokens for 64 x 64 pixels

    # Transformer
    context: int = 20  # H, frames that a prediction sees, the present one included
    width: int = 256
    layers: int = 10
    attention_heads: int = 4
    reward_layers: int = 1
    continue_layers: int = 1

    # Behaviour
    feature_frames: int = 2  # latest frames that actor and critic see
    units: int = 512  # hidden width of actor, critic, reward and continue heads
    actor_layers: int = 3
    critic_layers: int = 3
    num_bins: int = 255  # of reward head and critic
    min_std: float = 0.1  # of continuous actions
    max_std: float = 1.0
    horizon: int = 20  # imagined steps
    imagination_starts: int = 1  # last rows of each window from which behaviour is learned; 0: all
    discount: float = 0.995  # γ
    lambda_: float = 0.95  # of λ-returns
    entropy_coef: float = 1e-3
    slow_coef: float = 1.0  # of the critic's loss against its slow copy
    slow_rate: float = 0.02
    return_rate: float = 0.01  # of the running 5th and 95th percentile of returns
    return_limit: float = 1.0  # least range that advantages are divided by

    # World-model loss
    reconstruction_coef: float = 1.0  # of the squared error of a pixel's colour in [0, 1], averaged over the image
    codebook_coef: float = 1.0  # of "vq"
    commitment_coef: float = 1.0  # of "vq" and "vq-ema"
    dynamics_coef: float = 1.0  # of the cross-entropy of a token of the next frame, averaged over the frame
    reward_coef: float = 1.0
    continue_coef: float = 1.0

    # Learning
    learning_rate: float = 1e-4  # of transformer and heads
    tokenizer_learning_rate: float = 1e-4
    tokenizer_updates: int = (
        0  # first updates, in which the tokenizer learns alone; then it stays as it is, so that the
    )
    # transformer's targets do too. Its learning rate falls to 0 over the second half of them. 0: it always learns
    behavior_start: int = 0  # updates before the behaviour begins to learn
    tokenizer_rows: int = 0  # last rows of each window that the tokenizer learns from; 0: all
    behavior_learning_rate: float = 1e-4
    weight_decay: float = 0.01  # of weight matrices of tokenizer and transformer
    gradient_clip: float = 10.0  # largest norm of the gradient of tokenizer, transformer with heads, and behaviour
    batch_size: int = 64  # windows of context + 1 rows
    updates_per_step: float = 0.5  # gradient updates per agent step
    min_seed_steps: int = 1000  # agent steps before learning

    def __post_init__(self) -> None:
        for name, low, high in (
            ("vocabulary", 2, 2**16), ("decay", 0.0, 1.0), ("token_width", 1, 2**13), ("depth", 1, 2**10),
            ("halvings", 1, 8), ("context", 1, 2**10), ("width", 1, 2**14), ("layers", 1, 64),
            ("attention_heads", 1, 2**8), ("reward_layers", 1, 64), ("continue_layers", 1, 64),
            ("feature_frames", 1, 2**10), ("units", 1, 2**14), ("actor_layers", 1, 64), ("critic_layers", 1, 64),
            ("num_bins", 2, 2**14), ("min_std", 1e-6, 100.0), ("max_std", 1e-6, 100.0), ("horizon", 1, 1000),
            ("imagination_starts", 0, 2**10), ("discount", 0.0, 1.0), ("lambda_", 0.0, 1.0), ("entropy_coef", 0.0, 1e6),
            ("slow_coef", 0.0, 1e6), ("slow_rate", 0.0, 1.0), ("return_rate", 0.0, 1.0), ("return_limit", 1e-12, 1e12),
            ("reconstruction_coef", 0.0, 1e6), ("codebook_coef", 0.0, 1e6), ("commitment_coef", 0.0, 1e6),
            ("dynamics_coef", 0.0, 1e6), ("reward_coef", 0.0, 1e6), ("continue_coef", 0.0, 1e6),
            ("learning_rate", 0.0, 1.0), ("tokenizer_learning_rate", 0.0, 1.0), ("tokenizer_rows", 0, 2**10),
            ("tokenizer_updates", 0, 2**31), ("behavior_start", 0, 2**31), ("behavior_learning_rate", 0.0, 1.0),
            ("weight_decay", 0.0, 1.0),
            ("gradient_clip", 0.0, 1e12), ("batch_size", 1, 2**20), ("updates_per_step", 0.0, 1024.0),
            ("min_seed_steps", 0, 2**31),
        ):  # fmt: skip
            check_range(name, getattr(self, name), low, high)
        if self.quantizer not in QUANTIZERS:
            raise ValueError(f"quantizer must be one of {QUANTIZERS}, got {self.quantizer!r}.")
        if not isinstance(self.levels, tuple) or not 1 <= len(self.levels) <= 16:
            raise ValueError(f"levels must be a tuple of 1 to 16 numbers, got {self.levels!r:.200}.")
        codes = 1
        for level in self.levels:
            check_range("levels", level, 3, 2**10)
            codes *= level
        check_range("the product of levels", codes, 3, 2**16)
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
