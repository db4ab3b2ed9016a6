"""Sizes and numbers of DreamerV3, with the presets of the official code (dreamerv3 configs.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worldloom_rl.config import WorldModelConfig, ranged


@dataclass(frozen=True)
class DreamerV3Config(WorldModelConfig):
    """Every number of a DreamerV3 agent; the defaults are the official 200M-parameter agent."""

    # Architecture
    deterministic: int = ranged(8192, 1, 2**16)  # D, width of the recurrent state
    hidden: int = ranged(1024, 1, 2**14)  # of the recurrent model's embeddings, prior and posterior
    groups: int = ranged(32, 1, 2**12)  # S: categoricals of the stochastic state, or its width if Gaussian
    classes: int = ranged(64, 2, 2**12)  # K of each categorical
    blocks: int = ranged(8, 1, 2**10)  # of the block-diagonal GRU
    units: int = ranged(1024, 1, 2**14)  # hidden width of encoder, decoder and heads
    depth: int = ranged(64, 1, 2**12)  # of the image convolutions, which have 2, 3, 4 and 4 times as many channels
    latent: Literal["categorical", "gaussian"] = "categorical"  # "gaussian": the state of DreamerV1 (extension)
    unimix: float = ranged(0.01, 0.0, 0.99)  # share of uniform mass in every categorical of the latent
    encoder_layers: int = ranged(3, 1, 64)
    decoder_layers: int = ranged(3, 1, 64)
    prior_layers: int = ranged(2, 1, 64)
    posterior_layers: int = ranged(1, 1, 64)
    reward_layers: int = ranged(1, 1, 64)
    continue_layers: int = ranged(1, 1, 64)
    actor_layers: int = ranged(3, 1, 64)
    critic_layers: int = ranged(3, 1, 64)
    num_bins: int = ranged(255, 2, 2**14)  # of reward head and critic
    min_std: float = ranged(0.1, 1e-6, 100.0)  # of continuous actions
    max_std: float = ranged(1.0, 1e-6, 100.0)

    # World-model loss
    free_nats: float = ranged(1.0, 0.0, 1e6)  # below which the divergences, summed over the latent, have no gradient
    dynamics_coef: float = ranged(1.0, 0.0, 1e6)
    representation_coef: float = ranged(0.1, 0.0, 1e6)
    reconstruction_coef: float = ranged(1.0, 0.0, 1e6)  # of every observation key
    reward_coef: float = ranged(1.0, 0.0, 1e6)
    continue_coef: float = ranged(1.0, 0.0, 1e6)
    discount_horizon: int = ranged(333, 1, 2**31)  # γ = 1 − 1/333
    discount_in_continue: bool = True  # contdisc: γ is part of what the continue head learns; the paper has it apart

    # Behaviour
    horizon: int = ranged(15, 1, 1000)  # imagined steps
    # last rows of each window from which behaviour is learned; 0: all (imag_last)
    imagination_starts: int = ranged(0, 0, 2**16)
    lambda_: float = ranged(0.95, 0.0, 1.0)  # of λ-returns
    actor_coef: float = ranged(1.0, 0.0, 1e6)
    critic_coef: float = ranged(1.0, 0.0, 1e6)
    replay_value_coef: float = ranged(0.3, 0.0, 1e6)  # repval: the critic's loss on replayed rewards
    entropy_coef: float = ranged(3e-4, 0.0, 1e6)
    slow_coef: float = ranged(1.0, 0.0, 1e6)  # of the critic's loss against its slow copy
    slow_rate: float = ranged(0.02, 0.0, 1.0)
    return_rate: float = ranged(0.01, 0.0, 1.0)  # of the running 5th and 95th percentile of returns
    return_limit: float = ranged(1.0, 1e-12, 1e12)  # least range that advantages are divided by

    # Learning
    learning_rate: float = ranged(4e-5, 0.0, 1.0)
    warmup: int = ranged(1000, 0, 2**31)  # updates over which the learning rate rises from 0
    # adaptive gradient clipping: largest gradient norm as a share of the weight's norm
    agc: float = ranged(0.3, 0.0, 1e6)
    momentum: float = ranged(0.9, 0.0, 0.9999)
    rms_decay: float = ranged(0.999, 0.0, 0.999999)
    eps: float = ranged(1e-20, 0.0, 1.0)
    batch_size: int = ranged(16, 1, 2**20)
    batch_length: int = ranged(64, 2, 2**16)  # rows learned from; a window has `replay_context` more
    # 1: a window starts from the stored latent of the row before it; 0: from zeros
    replay_context: int = ranged(1, 0, 1)
    # gradient updates per agent step, the official train_ratio / (16 · 64)
    updates_per_step: float = ranged(32 / 1024, 0.0, 1024.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.deterministic % self.blocks:
            raise ValueError(f"blocks {self.blocks} must divide deterministic {self.deterministic}.")
        if self.min_std > self.max_std:
            raise ValueError(f"min_std {self.min_std} must not exceed max_std {self.max_std}.")

    @property
    def discount(self) -> float:
        """γ."""
        return 1 - 1 / self.discount_horizon


def _size(units: int) -> DreamerV3Config:
    """The official rule: one width, all others in proportion."""
    return DreamerV3Config(deterministic=8 * units, hidden=units, classes=units // 16, units=units, depth=units // 16)


PRESETS = {
    "tiny": DreamerV3Config(
        deterministic=128, hidden=64, groups=8, classes=8, blocks=4, units=64, depth=4, discount_horizon=100,
        imagination_starts=8, entropy_coef=3e-3, learning_rate=3e-4, warmup=100, batch_length=32, updates_per_step=1.0,
    ),
    "size1m": _size(64),
    "size12m": _size(256),
    "size25m": _size(384),
    "size50m": _size(512),
    "size100m": _size(768),
    "size200m": DreamerV3Config(),
    "size400m": _size(1536),
}  # fmt: skip
