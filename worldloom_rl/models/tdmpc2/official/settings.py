"""What an official TD-MPC2 checkpoint does not tell."""

from __future__ import annotations

from dataclasses import dataclass

from worldloom_rl.models.tdmpc2.config import TDMPC2Config


@dataclass(frozen=True)
class ImportSettings:
    """What an official checkpoint does not hold; the defaults are those of the official config.yaml."""

    # multi-task: names in the checkpoint's order, or mt30 or mt80, which tell widths and γ too; numbers by default
    tasks: tuple[str, ...] = ()
    discount: float | tuple[float, ...] = TDMPC2Config.discount  # γ, one number or one a task; see `discount_for`
    action_dims: tuple[int, ...] = ()  # of each task, the valid ones; only multi-task first-release files need it
    observation_key: str | None = None  # by default "observation" for a vector and "pixels" for images
    task_key: str = "task"  # multi-task: where the environment gives the task's number
    action_key: str = "action"  # actions are in [-1, 1]
    vmin: float = TDMPC2Config.vmin  # first bin of the reward and Q heads, in symlog space
    vmax: float = TDMPC2Config.vmax  # last bin
    log_std_min: float = TDMPC2Config.log_std_min  # only first-release files need it, the others hold it
    log_std_max: float = TDMPC2Config.log_std_max  # as above
    simnorm_dim: int = TDMPC2Config.simnorm_dim  # group size of SimNorm
    dropout: float = TDMPC2Config.dropout  # in the first hidden layer of each Q, when learning goes on
    horizon: int = TDMPC2Config.horizon  # steps planned ahead, and of a training window
    iterations: int = TDMPC2Config.iterations  # of the planner
    num_samples: int = TDMPC2Config.num_samples
    num_elites: int = TDMPC2Config.num_elites
    num_policy_trajectories: int = TDMPC2Config.num_policy_trajectories  # num_pi_trajs
    min_std: float = TDMPC2Config.min_std
    max_std: float = TDMPC2Config.max_std
    temperature: float = TDMPC2Config.temperature
    consistency_coef: float = TDMPC2Config.consistency_coef  # this and what follows: for learning on
    reward_coef: float = TDMPC2Config.reward_coef
    value_coef: float = TDMPC2Config.value_coef
    termination_coef: float = TDMPC2Config.termination_coef
    entropy_coef: float = TDMPC2Config.entropy_coef
    rho: float = TDMPC2Config.rho  # weight of step t in the losses is rho^t; 0.7 for the Gymnasium MuJoCo tasks
    tau: float = TDMPC2Config.tau  # rate of the target Qs and of the running scale
    learning_rate: float = TDMPC2Config.learning_rate
    encoder_learning_rate_scale: float = TDMPC2Config.encoder_learning_rate_scale
    grad_clip_norm: float = TDMPC2Config.grad_clip_norm
    batch_size: int = TDMPC2Config.batch_size


@dataclass(frozen=True)
class NewtSettings(ImportSettings):
    """What a checkpoint of newt does not hold; the defaults are those of its code."""

    dropout: float = 0.0  # in the first hidden layer of each Q; newt has none
    batch_size: int = 1024
    # multi-task: numbers that all tasks observe; more in a checkpoint are features of images, which are not imported
    observation_width: int = 128
