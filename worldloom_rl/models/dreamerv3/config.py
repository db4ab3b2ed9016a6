"""Sizes and numbers of DreamerV3, with the presets of the official code (dreamerv3 configs.yaml)."""

from __future__ import annotations

from dataclasses import dataclass

from worldloom_rl.config import WorldModelConfig, check_range


@dataclass(frozen=True)
class DreamerV3Config(WorldModelConfig):
    """Every number of a DreamerV3 agent; the defaults are the official 200M-parameter agent."""

    # Architecture
    deterministic: int = 8192  # D, width of the recurrent state
    hidden: int = 1024  # of the recurrent model's embeddings, prior and posterior
    groups: int = 32  # S: categoricals of the stochastic state, or its width if Gaussian
    classes: int = 64  # K of each categorical
    blocks: int = 8  # of the block-diagonal GRU
    units: int = 1024  # hidden width of encoder, decoder and heads
    depth: int = 64  # of the image convolutions, which have 2, 3, 4 and 4 times as many channels
    latent: str = "categorical"  # or "gaussian", the stochastic state of DreamerV1 (extension)
    unimix: float = 0.01  # share of uniform mass in every categorical of the latent
    encoder_layers: int = 3
    decoder_layers: int = 3
    prior_layers: int = 2
    posterior_layers: int = 1
    reward_layers: int = 1
    continue_layers: int = 1
    actor_layers: int = 3
    critic_layers: int = 3
    num_bins: int = 255  # of reward head and critic
    min_std: float = 0.1  # of continuous actions
    max_std: float = 1.0

    # World-model loss
    free_nats: float = 1.0  # below which the divergences, summed over the latent, have no gradient
    dynamics_coef: float = 1.0
    representation_coef: float = 0.1
    reconstruction_coef: float = 1.0  # of every observation key
    reward_coef: float = 1.0
    continue_coef: float = 1.0
    discount_horizon: int = 333  # γ = 1 − 1/333
    discount_in_continue: bool = True  # contdisc: γ is part of what the continue head learns; the paper has it apart

    # Behaviour
    horizon: int = 15  # imagined steps
    imagination_starts: int = 0  # last rows of each window from which behaviour is learned; 0: all (imag_last)
    lambda_: float = 0.95  # of λ-returns
    actor_coef: float = 1.0
    critic_coef: float = 1.0
    replay_value_coef: float = 0.3  # repval: the critic's loss on replayed rewards
    entropy_coef: float = 3e-4
    slow_coef: float = 1.0  # of the critic's loss against its slow copy
    slow_rate: float = 0.02
    return_rate: float = 0.01  # of the running 5th and 95th percentile of returns
    return_limit: float = 1.0  # least range that advantages are divided by

    # Learning
    learning_rate: float = 4e-5
    warmup: int = 1000  # updates over which the learning rate rises from 0
    agc: float = 0.3  # adaptive gradient clipping: largest gradient norm as a share of the weight's norm
    momentum: float = 0.9
    rms_decay: float = 0.999
    eps: float = 1e-20
    batch_size: int = 16
    batch_length: int = 64  # rows learned from; a window has `replay_context` more
    replay_context: int = 1  # 1: a window starts from the stored latent of the row before it; 0: from zeros
    updates_per_step: float = 32 / 1024  # gradient updates per agent step, the official train_ratio / (16 · 64)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("deterministic", 1, 2**16), ("hidden", 1, 2**14), ("groups", 1, 2**12), ("classes", 2, 2**12),
            ("blocks", 1, 2**10), ("units", 1, 2**14), ("depth", 1, 2**12), ("unimix", 0.0, 0.99),
            ("encoder_layers", 1, 64), ("decoder_layers", 1, 64), ("prior_layers", 1, 64), ("posterior_layers", 1, 64),
            ("reward_layers", 1, 64), ("continue_layers", 1, 64), ("actor_layers", 1, 64), ("critic_layers", 1, 64),
            ("num_bins", 2, 2**14), ("min_std", 1e-6, 100.0), ("max_std", 1e-6, 100.0),
            ("free_nats", 0.0, 1e6), ("dynamics_coef", 0.0, 1e6), ("representation_coef", 0.0, 1e6),
            ("reconstruction_coef", 0.0, 1e6), ("reward_coef", 0.0, 1e6), ("continue_coef", 0.0, 1e6),
            ("discount_horizon", 1, 2**31), ("horizon", 1, 1000),
            ("imagination_starts", 0, 2**16), ("lambda_", 0.0, 1.0), ("actor_coef", 0.0, 1e6),
            ("critic_coef", 0.0, 1e6), ("replay_value_coef", 0.0, 1e6), ("entropy_coef", 0.0, 1e6),
            ("slow_coef", 0.0, 1e6), ("slow_rate", 0.0, 1.0), ("return_rate", 0.0, 1.0), ("return_limit", 1e-12, 1e12),
            ("learning_rate", 0.0, 1.0), ("warmup", 0, 2**31), ("agc", 0.0, 1e6), ("momentum", 0.0, 0.9999),
            ("rms_decay", 0.0, 0.999999), ("eps", 0.0, 1.0), ("batch_size", 1, 2**20), ("batch_length", 2, 2**16),
            ("replay_context", 0, 1), ("updates_per_step", 0.0, 1024.0),
        ):  # fmt: skip
            check_range(name, getattr(self, name), low, high)
        if self.latent not in ("categorical", "gaussian"):
            raise ValueError(f'latent must be "categorical" or "gaussian", got {self.latent!r}.')
        if not isinstance(self.discount_in_continue, bool):
            raise ValueError(f"discount_in_continue must be true or false, got {self.discount_in_continue!r}.")
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
