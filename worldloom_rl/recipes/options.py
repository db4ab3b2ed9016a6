"""What `worldloom train` can be told of each family. Nothing heavy is imported before a method asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worldloom_rl.config import ranged
from worldloom_rl.training.options import MOST_STEPS, EnvOptions
from worldloom_rl.training.options import CapturedRunConfig as CapturedRunConfig
from worldloom_rl.training.options import RunConfig as RunConfig

if TYPE_CHECKING:
    from torchrl.envs import EnvBase

    from worldloom_rl.models.dreamerv3.config import DreamerV3Config
    from worldloom_rl.models.jepa.config import JEPAConfig
    from worldloom_rl.models.tdmpc2.config import TDMPC2Config
    from worldloom_rl.models.tokens.config import TokensConfig


@dataclass(frozen=True, kw_only=True)
class DreamerV3RunConfig(CapturedRunConfig):
    """What `worldloom train dreamerv3` can be told. Steps are agent steps, summed over environments."""

    bfloat16: bool = False  # compute in bfloat16 under autocast, as the official code; weights and losses stay float32

    @property
    def model_config(self) -> DreamerV3Config:
        """The preset with the overrides."""
        from worldloom_rl.models.dreamerv3.config import DreamerV3Config
        from worldloom_rl.training.overrides import preset_config

        config = preset_config("dreamerv3", self.preset, self.overrides)
        assert isinstance(config, DreamerV3Config)
        return config


@dataclass(frozen=True, kw_only=True)
class TDMPC2RunConfig(CapturedRunConfig):
    """What `worldloom train tdmpc2` can be told. Steps are agent steps, summed over environments: one action each."""

    episodic: bool = False  # the environment can terminate: learn a termination head
    seed_steps: int | None = ranged(None, 1, MOST_STEPS)  # random ones before learning; by default 5 episodes or more

    @property
    def frame_stack(self) -> int:
        """Three images stand in one observation."""
        return 3 if self.pixels else 1

    def model_config(self, length: int) -> TDMPC2Config:
        """The preset with the overrides, and with γ for episodes of that many agent steps unless it is overridden."""
        from worldloom_rl.models.tdmpc2.config import TDMPC2Config, discount_for
        from worldloom_rl.training.overrides import preset_config

        learned = {"discount": discount_for(length), "episodic": self.episodic}
        config = preset_config("tdmpc2", self.preset, self.overrides, **learned)
        assert isinstance(config, TDMPC2Config)
        return config


@dataclass(frozen=True, kw_only=True)
class TokensRunConfig(RunConfig):
    """What `worldloom train tokens` can be told. Steps are agent steps, summed over environments."""

    @property
    def model_config(self) -> TokensConfig:
        """The preset with the overrides."""
        from worldloom_rl.models.tokens.config import TokensConfig
        from worldloom_rl.training.overrides import preset_config

        config = preset_config("tokens", self.preset, self.overrides)
        assert isinstance(config, TokensConfig)
        return config


@dataclass(frozen=True, kw_only=True)
class JEPARunConfig(RunConfig):
    """What `worldloom train jepa` can be told; `env` or `data`, or both: then the environment is only acted in.

    Steps, and with them evaluations, checkpoints and logs, are gradient updates here.
    """

    env: str = ""  # "worldloom/PointRoom-v0", "module:Id" or "dmc:cartpole-balance"
    data: str = ""  # recorded episodes instead of collected ones: "minari:NAME", or a path to HDF5 files
    steps: int = ranged(3000, 1, MOST_STEPS)  # gradient updates
    collect: int = ranged(10_000, 1, MOST_STEPS)  # agent steps that are collected before them, unless there is data
    policy: str = "random"  # what collects: "random", or "module:function" that makes a policy of the environment
    frame_skip: int = ranged(1, 1, 1000)  # k: the model sees every k-th frame, and k actions as one
    image_size: int | None = ranged(None, 1, 4096)  # of images, in pixels; by default 64, or as recorded
    held_out: float = 0.05  # share of recorded episodes that are not learned from, at least one; they judge the model
    bfloat16: bool = False  # compute in bfloat16 under autocast, as the official code; weights and losses stay float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.env or self.data):
            raise ValueError("A JEPA learns from an environment (env) or from recorded episodes (data): name one.")
        if not 0.0 <= self.held_out < 1.0:
            raise ValueError(f"held_out must be a share in [0, 1), got {self.held_out}.")
        if self.data and self.policy != type(self).policy:
            raise ValueError(f"policy={self.policy!r} would collect, but data={self.data!r} is learned from.")

    @property
    def task(self) -> str:
        """The data where it is recorded, else the environment."""
        return self.data or self.env

    @property
    def model_config(self) -> JEPAConfig:
        """The preset with the overrides."""
        from worldloom_rl.models.jepa.config import JEPAConfig
        from worldloom_rl.training.overrides import preset_config

        config = preset_config("jepa", self.preset, self.overrides)
        assert isinstance(config, JEPAConfig)
        return config

    def env_options(self) -> EnvOptions:
        """As the agent acts: a block of `frame_skip` actions at once."""
        return {**super().env_options(), "image_size": self.image_size or 64, "action_block": self.frame_skip}

    def make_collection_env(self, num_envs: int, seed: int) -> EnvBase:
        """As data is collected: every frame is seen, so that windows can start at any."""
        from worldloom_rl.envs import make_env

        options: EnvOptions = {**self.env_options(), "action_block": 1}
        return make_env(self.env, num_envs=num_envs, seed=seed, **options)

    def replay_rows(self) -> int:
        """Capacity that the collection can fill."""
        return min(self.capacity, 2 * self.collect + 1000)
