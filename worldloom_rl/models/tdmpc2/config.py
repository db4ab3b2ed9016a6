"""Sizes and numbers of TD-MPC2, with the presets of the official code (tdmpc2 config.yaml, common/__init__.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worldloom_rl.config import Json, Limits, WorldModelConfig, added_field, ranged
from worldloom_rl.tasks import TaskSet

if TYPE_CHECKING:
    from worldloom_rl.nn.mlp import Activation


@dataclass(frozen=True)
class TDMPC2Config(WorldModelConfig):
    """Every number of a TD-MPC2 agent; the defaults are the official 5M-parameter agent."""

    # Architecture
    encoder_layers: int = ranged(2, 1, 64)  # num_enc_layers; 1 and 2 give the same encoder, one hidden layer
    encoder_dim: int = ranged(256, 1, 2**16)  # enc_dim, hidden width of the state encoder
    mlp_dim: int = ranged(512, 1, 2**16)  # hidden width of dynamics, reward, termination, policy and Q
    latent_dim: int = ranged(512, 1, 2**16)  # L
    simnorm_dim: int = ranged(8, 1, 2**16)  # V, group size of SimNorm
    # of the encoder's first biases (extension): LayerNorm follows, so zero ones let through an observation's direction
    # only, not its size, which tells how far CartPole's cart is from the edge
    encoder_bias_std: float = added_field(0.0, before=0.0, limits=Limits(0.0, 10.0))
    # of each convolution of the pixel encoder: a 16th of its branch's width, or of latent_dim, to be shared by branches
    num_channels: int = ranged(32, 1, 2**12)
    num_q: int = ranged(5, 2, 1024)  # members of the Q ensemble
    num_bins: int = ranged(101, 2, 2**14)  # of the reward and Q heads
    vmin: float = ranged(-10.0, -1e6, 1e6)  # first bin, in symlog space
    vmax: float = ranged(10.0, -1e6, 1e6)  # last bin
    dropout: float = ranged(0.01, 0.0, 0.99)  # in the first hidden layer of each Q
    log_std_min: float = ranged(-10.0, -1e3, 1e3)
    log_std_max: float = ranged(2.0, -1e3, 1e3)
    fast_mish: bool = True  # as exact as PyTorch's Mish and 2.6 times as fast on a CPU, but rounded otherwise; the
    # reference's numbers are met with either
    episodic: bool = False  # learn a termination head; for environments that terminate
    # multi-task: valid action dimensions of each task; empty is one task
    action_dims: tuple[int, ...] = ranged((), 1, 2**16, lengths=(0, 2**10))
    task_dim: int = ranged(96, 1, 2**14)  # multi-task: width of the task embedding
    # multi-task: the embeddings are of the tasks' texts, as newt's are: never learned, and of any norm. Learned ones
    # are kept within norm 1.
    fixed_task_embedding: bool = added_field(False, before=False)
    # multi-task, of each task, where they are known: its name, the numbers it observes, and the agent steps of its
    # longest episode
    task_names: tuple[str, ...] = added_field((), before=())
    observation_dims: tuple[int, ...] = added_field((), before=(), limits=Limits(1, 2**20, (0, 2**10)))
    episode_lengths: tuple[int, ...] = added_field((), before=(), limits=Limits(1, 2**31, (0, 2**10)))

    # Learning
    # γ, one number or one a task; see `discount_for`
    discount: float | tuple[float, ...] = ranged(0.99, 0.0, 1.0, lengths=(1, 2**10))
    consistency_coef: float = ranged(20.0, 0.0, 1e6)
    reward_coef: float = ranged(0.1, 0.0, 1e6)
    value_coef: float = ranged(0.1, 0.0, 1e6)
    termination_coef: float = ranged(1.0, 0.0, 1e6)
    rho: float = ranged(0.5, 0.0, 1.0)  # weight of step t in the losses is rho^t
    entropy_coef: float = ranged(1e-4, 0.0, 1e6)
    # Of discrete actions (extension): with 1e-4 the prior settles on one action, where a softmax passes no gradient.
    categorical_entropy_coef: float = ranged(0.02, 0.0, 1e6)
    tau: float = ranged(0.01, 0.0, 1.0)  # rate of the target Qs and of the running scale
    learning_rate: float = ranged(3e-4, 0.0, 1.0)
    encoder_learning_rate_scale: float = ranged(0.3, 0.0, 1e6)
    grad_clip_norm: float = ranged(20.0, 0.0, 1e12)
    batch_size: int = ranged(256, 1, 2**20)
    updates_per_step: float = ranged(1.0, 0.0, 1024.0)  # gradient updates per agent step
    # random agent steps before learning: this many, and at least five episodes
    min_seed_steps: int = ranged(1000, 0, 2**31)
    carry_task_gradient: bool = True  # the policy loss's gradient on the task embedding joins the next model update, as
    # in the official code; False keeps it out

    # Planning
    horizon: int = ranged(3, 1, 1000)  # also the length of the training windows
    iterations: int = ranged(6, 1, 1000)  # two more for 20 and more action dimensions, as the official agent does
    num_samples: int = ranged(512, 1, 2**20)
    num_elites: int = ranged(64, 1, 2**20)
    num_policy_trajectories: int = ranged(24, 0, 2**20)  # num_pi_trajs
    min_std: float = ranged(0.05, 0.0, 100.0)
    max_std: float = ranged(2.0, 0.0, 100.0)
    temperature: float = ranged(0.5, 0.0, 1e6)

    def __post_init__(self) -> None:
        super().__post_init__()
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
        known = {"observation_dims": self.observation_dims, "episode_lengths": self.episode_lengths}
        of_each = {"action_dims": self.action_dims, **(known if any(known.values()) else {})}
        for name, values in of_each.items():
            if (self.task_names or name in known) and len(values) != len(self.task_names):
                raise ValueError(f"{name} has {len(values)} numbers, but task_names {len(self.task_names)} names.")
        if self.episodic and self.action_dims:
            raise ValueError("TD-MPC2 learns either a termination head or several tasks, not both; set episodic=False.")

    def to_json(self) -> dict[str, Json]:
        """As of every configuration; a model that knows no tasks by name says nothing of them, as before they had."""
        known = ("fixed_task_embedding", "task_names", "observation_dims", "episode_lengths")
        return {name: value for name, value in super().to_json().items() if value or name not in known}

    @property
    def activation(self) -> Activation:
        """Mish, in the form that `fast_mish` asks for."""
        import torch.nn.functional as F  # here, so that a configuration is read without torch

        from worldloom_rl.kernels.mish import fast_mish

        return fast_mish if self.fast_mish else F.mish

    @property
    def num_tasks(self) -> int:
        """Number of tasks; 0 means one task without an embedding."""
        return len(self.action_dims)

    @property
    def tasks(self) -> TaskSet | None:
        """The tasks, where their names and sizes are known."""
        if not self.observation_dims:
            return None
        return TaskSet(self.task_names, self.observation_dims, self.action_dims, self.episode_lengths)


def fields_of_tasks(tasks: TaskSet) -> dict[str, Json]:
    """What a configuration says of these tasks; each one's γ is that of its episodes' length."""
    return {
        "task_names": tasks.names,
        "observation_dims": tasks.observation_widths,
        "action_dims": tasks.action_widths,
        "episode_lengths": tasks.episode_lengths,
        "discount": tuple(discount_for(length) for length in tasks.episode_lengths),
    }


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

# Of presets where a run collects episodes that end by themselves, which the official code has no numbers for at this
# size. An end is an edge that few rows show: the encoder sees how far off it is, not only in which direction; the rows
# of a window weigh alike, as an end is in the last one; the targets follow sooner.
ENDS: dict[str, dict[str, Json]] = {"tiny": {"encoder_bias_std": 0.03, "rho": 1.0, "tau": 0.05}}
