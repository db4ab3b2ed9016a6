"""What `worldloom finetune` can be told, and what a run that began with a trained model keeps of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worldloom_rl.config import ranged
from worldloom_rl.recipes.options import DreamerV3RunConfig, TDMPC2RunConfig
from worldloom_rl.training.env_arguments import env_arguments
from worldloom_rl.training.options import CapturedRunConfig

if TYPE_CHECKING:
    from torchrl.envs import EnvBase


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(CapturedRunConfig):
    """What `worldloom finetune` can be told. Steps are agent steps, summed over environments: one action each."""

    started_from: str  # the run, the saved model or the hub's model that the weights come from
    like: str = "mean"  # of a model of several tasks: the one that the new task is like, "mean" or "random"
    # recorded episodes of the environment that are learned from beside the collected ones, such as run directories
    data: tuple[str, ...] = ()
    offline_share: float = ranged(0.5, 0.0, 1.0)  # of each batch's windows that are recorded, where there is data
    freeze: tuple[str, ...] = ()  # parts of the model that keep their weights, such as encoder

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data and not 0.0 < self.offline_share < 1.0:
            raise ValueError(
                f"offline_share must be above 0 and below 1 where there is data, got {self.offline_share}: of recorded "
                "episodes alone `worldloom train` learns."
            )


@dataclass(frozen=True, kw_only=True)
class FineTunedTDMPC2RunConfig(FineTuneConfig, TDMPC2RunConfig):
    """Of a fine-tuned TD-MPC2. `seed_steps`, which are drawn at random, are none by default."""

    padded_to: tuple[int, ...] = ranged((), 1, 2**20, lengths=(0, 2))  # of a model of several tasks: the numbers that
    # it observes and takes

    def make_env(self, num_envs: int, seed: int) -> EnvBase:
        """Environments as the agent acts in them, as wide as those that it knew."""
        if not self.padded_to:
            return super().make_env(num_envs, seed)
        from worldloom_rl.envs.tasks import make_padded_env

        return make_padded_env(
            self.env,
            (self.padded_to[0], self.padded_to[1]),
            num_envs=num_envs,
            seed=seed,
            action_repeat=self.repeat,
            time_limit=self.time_limit,
            rescale_observations=self.rescale_observations,
            env_kwargs=env_arguments(self.env_kwargs),
            parallel=self.in_processes,
        )


@dataclass(frozen=True, kw_only=True)
class FineTunedDreamerV3RunConfig(FineTuneConfig, DreamerV3RunConfig):
    """Of a fine-tuned DreamerV3."""
