"""Sizes and numbers of TD-MPC2, with the presets of the official code (tdmpc2 config.yaml, common/__init__.py)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from worldloom_rl.config import WorldModelConfig, added_field, check_range
from worldloom_rl.kernels.mish import fast_mish
from worldloom_rl.nn.mlp import Activation


@dataclass(frozen=True)
class TDMPC2Config(WorldModelConfig):
    """Every number of a TD-MPC2 agent; the defaults are the official 5M-parameter agent."""

    # Architecture
    encoder_layers: int = 2  # num_enc_layers; 1 and 2 give the same encoder, one hidden layer
    encoder_dim: int = 256  # enc_dim, hidden width of the state encoder
    mlp_dim: int = 512  # hidden width of dynamics, reward, termination, policy and Q
    latent_dim: int = 512  # L
    simnorm_dim: int = 8  # V, group size of SimNorm
    # of the encoder's first biases (extension): LayerNorm follows, so zero ones let through an observation's direction
    # only, not its size, which tells how far CartPole's cart is from the edge
    encoder_bias_std: float = added_field(0.0, before=0.0)
    num_channels: int = 32  # of each convolution of the pixel encoder; 16 of them a pixel branch's width
    num_q: int = 5  # members of the Q ensemble
    num_bins: int = 101  # of the reward and Q heads
    vmin: float = -10.0  # first bin, in symlog space
    vmax: float = 10.0  # last bin
    dropout: float = 0.01  # in the first hidden layer of each Q
    log_std_min: float = -10.0
    log_std_max: float = 2.0
    fast_mish: bool = True  # as exact as PyTorch's Mish and 2.6 times as fast on a CPU, but rounded otherwise; the
    # reference's numbers are met with either
    episodic: bool = False  # learn a termination head; for environments that terminate
    action_dims: tuple[int, ...] = ()  # multi-task: valid action dimensions of each task; empty is one task
    task_dim: int = 96  # multi-task: width of the task embedding

    # Learning
    discount: float | tuple[float, ...] = 0.99  # γ, one number or one a task; see `discount_for`
    consistency_coef: float = 20.0
    reward_coef: float = 0.1
    value_coef: float = 0.1
    termination_coef: float = 1.0
    rho: float = 0.5  # weight of step t in the losses is rho^t
    entropy_coef: float = 1e-4
    # Of discrete actions (extension): with 1e-4 the prior settles on one action, where a softmax passes no gradient.
    categorical_entropy_coef: float = 0.02
    tau: float = 0.01  # rate of the target Qs and of the running scale
    learning_rate: float = 3e-4
    encoder_learning_rate_scale: float = 0.3
    grad_clip_norm: float = 20.0
    batch_size: int = 256
    updates_per_step: float = 1.0  # gradient updates per agent step
    min_seed_steps: int = 1000  # random agent steps before learning: this many, and at least five episodes
    carry_task_gradient: bool = True  # the policy loss's gradient on the task embedding joins the next model update, as
    # in the official code; False keeps it out

    # Planning
    horizon: int = 3  # also the length of the training windows
    iterations: int = 6  # two more for 20 and more action dimensions, as the official agent does
    num_samples: int = 512
    num_elites: int = 64
    num_policy_trajectories: int = 24  # num_pi_trajs
    min_std: float = 0.05
    max_std: float = 2.0
    temperature: float = 0.5

    def __post_init__(self) -> None:
        for name, low, high in (
            ("encoder_layers", 1, 64), ("encoder_dim", 1, 2**16), ("mlp_dim", 1, 2**16), ("latent_dim", 1, 2**16),
            ("simnorm_dim", 1, 2**16), ("num_channels", 1, 2**12), ("num_q", 2, 1024), ("num_bins", 2, 2**14),
            ("dropout", 0.0, 0.99), ("encoder_bias_std", 0.0, 10.0), ("task_dim", 1, 2**14),
            ("rho", 0.0, 1.0), ("tau", 0.0, 1.0),
            ("vmin", -1e6, 1e6), ("vmax", -1e6, 1e6), ("log_std_min", -1e3, 1e3), ("log_std_max", -1e3, 1e3),
            ("consistency_coef", 0.0, 1e6), ("reward_coef", 0.0, 1e6), ("value_coef", 0.0, 1e6),
            ("termination_coef", 0.0, 1e6), ("entropy_coef", 0.0, 1e6), ("categorical_entropy_coef", 0.0, 1e6),
            ("encoder_learning_rate_scale", 0.0, 1e6), ("grad_clip_norm", 0.0, 1e12),
            ("learning_rate", 0.0, 1.0), ("min_seed_steps", 0, 2**31), ("batch_size", 1, 2**20),
            ("updates_per_step", 0.0, 1024.0), ("horizon", 1, 1000), ("iterations", 1, 1000),
            ("num_samples", 1, 2**20), ("num_elites", 1, 2**20), ("num_policy_trajectories", 0, 2**20),
            ("min_std", 0.0, 100.0), ("max_std", 0.0, 100.0), ("temperature", 0.0, 1e6),
        ):  # fmt: skip
            check_range(name, getattr(self, name), low, high)
        if not isinstance(self.action_dims, tuple) or len(self.action_dims) > 2**10:
            raise ValueError(f"action_dims must be a tuple with one number a task, got {self.action_dims!r:.200}.")
        for dimensions in self.action_dims:
            check_range("action_dims", dimensions, 1, 2**16)
        for name in ("fast_mish", "episodic", "carry_task_gradient"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}.")
        if not self.vmin < self.vmax:
            raise ValueError(f"vmin must be below vmax, got {self.vmin} and {self.vmax}.")
        if self.log_std_min > self.log_std_max:
            raise ValueError(f"log_std_min {self.log_std_min} must not exceed log_std_max {self.log_std_max}.")
        if self.min_std > self.max_std:
            raise ValueError(f"min_std {self.min_std} must not exceed max_std {self.max_std}.")
        if self.latent_dim % self.simnorm_dim:
            raise ValueError(f"latent_dim {self.latent_dim} is not a multiple of simnorm_dim {self.simnorm_dim}.")
        if not 1 <= self.num_elites <= self.num_samples:
            raise ValueError(f"num_elites {self.num_elites} must be between 1 and num_samples {self.num_samples}.")
        if self.num_policy_trajectories > self.num_samples:
            raise ValueError(
                f"num_policy_trajectories {self.num_policy_trajectories} must not exceed "
                f"num_samples {self.num_samples}."
            )
        if isinstance(self.discount, tuple) and len(self.discount) != len(self.action_dims):
            raise ValueError(f"{len(self.discount)} discounts were given for {len(self.action_dims)} tasks.")
        for discount in self.discount if isinstance(self.discount, tuple) else (self.discount,):
            check_range("discount", discount, 0.0, 1.0)
        if self.episodic and self.action_dims:
            raise ValueError("TD-MPC2 learns either a termination head or several tasks, not both; set episodic=False.")

    @property
    def activation(self) -> Activation:
        """Mish, in the form that `fast_mish` asks for."""
        return fast_mish if self.fast_mish else F.mish

    @property
    def num_tasks(self) -> int:
        """Number of tasks; 0 means one task without an embedding."""
        return len(self.action_dims)


def discount_for(episode_length: int, denominator: float = 5.0, low: float = 0.95, high: float = 0.995) -> float:
    """γ for episodes of that many agent steps: (f − 1) / f with f = length / 5, kept in [0.95, 0.995].

    Reference: tdmpc2 agent, _get_discount.
    """
    if episode_length < 1:
        raise ValueError(f"An episode has at least one agent step, got {episode_length}.")
    share = episode_length / denominator
    return min(max((share - 1) / share, low), high)


PRESETS = {
    "tiny": TDMPC2Config(
        encoder_dim=64, mlp_dim=64, latent_dim=64, num_q=2, num_bins=101, dropout=0.0, learning_rate=1e-3,
        batch_size=128, min_seed_steps=500, iterations=4, num_samples=128, num_elites=16,
        num_policy_trajectories=8, num_channels=4,
    ),
    "1m": TDMPC2Config(encoder_dim=256, mlp_dim=384, latent_dim=128, encoder_layers=2, num_q=2, num_channels=8),
    "5m": TDMPC2Config(),
    "19m": TDMPC2Config(encoder_dim=1024, mlp_dim=1024, latent_dim=768, encoder_layers=3, num_channels=48),
    "48m": TDMPC2Config(encoder_dim=1792, mlp_dim=1792, latent_dim=768, encoder_layers=4, num_channels=48),
    "317m": TDMPC2Config(
        encoder_dim=4096, mlp_dim=4096, latent_dim=1376, encoder_layers=5, num_q=8, num_channels=86
    ),
}  # fmt: skip
