"""What `worldloom finetune` can be told, and what a run that began with a trained model keeps of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worldloom_rl.config import Json, added_field, ranged
from worldloom_rl.recipes.options import DreamerV3RunConfig, JEPARunConfig, TDMPC2RunConfig
from worldloom_rl.training.env_arguments import env_arguments
from worldloom_rl.training.options import MOST_STEPS, CapturedRunConfig, RunConfig

if TYPE_CHECKING:
    from torchrl.envs import EnvBase


EXPLORED = "explore=True"  # in `began_as`, of a run that learned from disagreement instead of the reward


@dataclass(frozen=True, kw_only=True)
class StartedConfig(RunConfig):
    """Of any run that begins with a trained model."""

    started_from: str  # the run, the saved model or the hub's model that the weights come from
    freeze: tuple[str, ...] = ()  # parts of the model that keep their weights, such as encoder
    # how the agent of the run at `started_from` saw and acted, such as "action_repeat=2": what differs here is told
    began_as: tuple[str, ...] = added_field((), before=())

    @property
    def found(self) -> tuple[str, ...]:
        """What the run begins with, too: the model, and how its run saw and acted."""
        now = {f"{name}={value}" for name, value in acted(self).items()}
        kept, left = ([_typed(each) for each in self.began_as if (each in now) == same] for same in (True, False))
        told = [f"with its {' '.join(kept)}"] * bool(kept) + [f"not its {' '.join(left)}"] * bool(left)
        return (", ".join([f"begins with {self.started_from}", *told]), *super().found)


def acted(config: RunConfig) -> dict[str, Json]:
    """How the agent of a run sees and acts, which is not what its environment is, as options by name."""
    names = ("pixels", "rescale_observations", "frame_skip")
    has = {name: getattr(config, name) for name in names if hasattr(config, name)}
    return {"action_repeat": config.repeat, **has}


def _typed(option: str) -> str:
    """As a person types it."""
    name, _, value = option.replace("_", "-").partition("=")
    return {"True": f"--{name}", "False": f"--no-{name}"}.get(value, f"--{name} {value}")


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(StartedConfig, CapturedRunConfig):
    """Of one that collects, and may learn from recorded episodes beside."""

    like: str = "mean"  # of a model of several tasks: the one that the new task is like, "mean" or "random"
    data: tuple[str, ...] = ()  # recorded episodes of the environment, learned from beside the collected ones
    offline_share: float = ranged(0.5, 0.0, 1.0)  # of each batch's windows that are recorded, where there is data

    def __post_init__(self) -> None:
        if not self.env:
            raise ValueError("env names the environment that the model goes on in; it is missing.")
        super().__post_init__()
        if self.data and not 0.0 < self.offline_share < 1.0:
            raise ValueError(
                f"offline_share must be above 0 and below 1 where there is data, got {self.offline_share}: of recorded "
                "episodes alone `worldloom train` learns."
            )

    @property
    def earlier(self) -> tuple[str, ...]:
        """Where the weights come from, and the recorded data."""
        return (self.started_from, *self.data)


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
            rescale_observations=bool(self.rescale_observations),
            env_kwargs=env_arguments(self.env_kwargs),
            parallel=self.in_processes,
        )


@dataclass(frozen=True, kw_only=True)
class FineTunedDreamerV3RunConfig(FineTuneConfig, DreamerV3RunConfig):
    """Of a fine-tuned DreamerV3."""


@dataclass(frozen=True, kw_only=True)
class FineTunedJEPARunConfig(JEPARunConfig, StartedConfig):
    """Of a fine-tuned JEPA, which learns from collected or from recorded episodes, as `worldloom train jepa` does."""


FINE_TUNED: dict[str, type[StartedConfig]] = {
    "tdmpc2": FineTunedTDMPC2RunConfig,
    "dreamerv3": FineTunedDreamerV3RunConfig,
    "jepa": FineTunedJEPARunConfig,
}


@dataclass(frozen=True, kw_only=True)
class FineTuneOptions(RunConfig):
    """What `worldloom finetune` can be told. Steps are agent steps, summed over environments (one action each), and
    gradient updates of a JEPA.

    Of a run that is gone on with come --action-repeat, --pixels, --rescale-observations, --frame-skip and --image-size
    where they are not given here: how the agent sees and acts. What its environment is, --env-kwargs and --time-limit,
    does not.
    """

    started_from: str  # a run directory, a saved model, or one on the hub
    env: str = ""  # "Pendulum-v1", "module:Id" or "dmc:cartpole-balance"; a JEPA can do with data
    preset: str = "saved"  # sizes are the model's
    # recorded episodes of the environment that are learned from beside the collected ones, such as run directories; a
    # JEPA learns from them alone
    data: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()  # parts of the model that keep their weights, such as encoder
    inherit: bool = True  # take the options above of the run that is gone on with
    like: str | None = None  # (tdmpc2) the task of several that the new one is like, by default their mean; or random
    # (tdmpc2, dreamerv3) of each batch's windows that are recorded, by default 0.5
    offline_share: float | None = ranged(None, 0.0, 1.0)
    cuda_graphs: bool = False  # (tdmpc2, dreamerv3) on a GPU, start acting and an update's passes by one call each
    bfloat16: bool = False  # (dreamerv3, jepa) compute in bfloat16 under autocast, as the official code
    collect: int | None = ranged(None, 1, MOST_STEPS)  # (jepa) agent steps collected before learning, by default 10000
    policy: str | None = None  # (jepa) what collects: "random", or "module:function" that makes a policy
    frame_skip: int | None = ranged(None, 1, 1000)  # (jepa) k: sees every k-th frame, and k actions as one
    image_size: int | None = ranged(None, 1, 4096)  # (jepa) of images, in pixels; by default the model's
    held_out: float | None = ranged(None, 0.0, 1.0)  # (jepa) share of recorded episodes that judge, by default 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.env or self.data):
            raise ValueError("env names the environment that the model goes on in; it is missing, and so is data.")
