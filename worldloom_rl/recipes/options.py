"""What `worldloom train` can be told of each family. Nothing heavy is imported before a method asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from worldloom_rl.config import added_field, ranged, texts_field
from worldloom_rl.recipes.suites import NO_SUITE, Suite, dreamerv3_suite
from worldloom_rl.recipes.tdmpc2_options import TDMPC2RunConfig as TDMPC2RunConfig
from worldloom_rl.training.options import MOST_STEPS, ActorsRunConfig, EnvOptions
from worldloom_rl.training.options import CapturedRunConfig as CapturedRunConfig
from worldloom_rl.training.options import RunConfig as RunConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchrl.envs import EnvBase

    from worldloom_rl.config import WorldModelConfig
    from worldloom_rl.data.codec import LeafCodec
    from worldloom_rl.models.dreamerv3.config import DreamerV3Config
    from worldloom_rl.models.jepa.config import JEPAConfig
    from worldloom_rl.models.tokens.config import TokensConfig


@dataclass(frozen=True, kw_only=True)
class DreamerV3RunConfig(ActorsRunConfig):
    """What `worldloom train dreamerv3` can be told. Steps are agent steps, summed over environments."""

    # recorded episodes of the environment instead of collected ones, such as run directories; then steps, evaluations,
    # checkpoints and logs count gradient updates
    data: tuple[str, ...] = added_field((), before=())
    bfloat16: bool = False  # compute in bfloat16 under autocast, as the official code; weights and losses stay float32
    # official settings of the suite that the environment is of: those of the published curves, today's, or none
    suite: Literal["published", "today", "none"] = added_field("published", before="none")
    # actor and critic learn from what an ensemble disagrees about, instead of the reward; `finetune` then goes for that
    explore: bool = added_field(False, before=False)
    # how replay keeps latents: as they are, the one-hot state as bytes (exactly), or also the deterministic as bfloat16
    replay_codec: Literal["none", "exact", "bfloat16"] = added_field("none", before="none")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.explore and self.data:
            raise ValueError("explore seeks new rows, but recorded data is learned from: leave one of them out.")

    def latent_codec(self, model_config: WorldModelConfig) -> Mapping[str, LeafCodec]:
        """As `replay_codec` has it. Raises ValueError for a model whose state is not one-hot."""
        if self.replay_codec == "none":
            return {}
        from worldloom_rl.data.codec import BFloat16, OneHotBytes
        from worldloom_rl.models.dreamerv3.config import DreamerV3Config

        assert isinstance(model_config, DreamerV3Config)
        if model_config.latent != "categorical":
            raise ValueError(
                f"replay_codec={self.replay_codec!r} keeps one-hot states, but the model's are {model_config.latent}: "
                "leave it out."
            )
        exact: dict[str, LeafCodec] = {"stochastic": OneHotBytes(model_config.classes)}
        return exact if self.replay_codec == "exact" else {**exact, "deterministic": BFloat16()}

    @property
    def earlier(self) -> tuple[str, ...]:
        """The recorded data."""
        return self.data

    @property
    def official(self) -> Suite:
        """What the authors set for the environment's suite, without what is told here or overridden."""
        if self.suite == "none":
            return NO_SUITE
        suite = dreamerv3_suite(self.env, pixels=self.pixels, today=self.suite == "today")
        return suite.without(self.action_repeat, self.overrides)

    @property
    def repeat(self) -> int:
        """As of every run, or the suite's."""
        suites = self.official.action_repeat if self.action_repeat is None else None
        return suites or super().repeat

    @property
    def model_config(self) -> DreamerV3Config:
        """The preset with the suite's numbers and the overrides."""
        from worldloom_rl.models.dreamerv3.config import DreamerV3Config
        from worldloom_rl.training.overrides import preset_config

        config = preset_config("dreamerv3", self.preset, self.overrides)
        assert isinstance(config, DreamerV3Config)
        if self.official.train_ratio is not None:
            updates = self.official.train_ratio / (config.batch_size * config.batch_length)
            config = preset_config("dreamerv3", self.preset, self.overrides, updates_per_step=updates)
            assert isinstance(config, DreamerV3Config)
        return config


@dataclass(frozen=True, kw_only=True)
class TokensRunConfig(RunConfig):
    """What `worldloom train tokens` can be told. Steps are agent steps, summed over environments."""

    # recorded episodes of the environment instead of collected ones, such as run directories; then steps, evaluations,
    # checkpoints and logs count gradient updates
    data: tuple[str, ...] = added_field((), before=())

    @property
    def earlier(self) -> tuple[str, ...]:
        """The recorded data."""
        return self.data

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
    # recorded episodes instead of collected ones: run directories, minari:NAME, paths of HDF5 files, …
    data: tuple[str, ...] = texts_field()
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
            raise ValueError(f"policy={self.policy!r} would collect, but data={list(self.data)} is learned from.")

    @property
    def earlier(self) -> tuple[str, ...]:
        """The recorded data."""
        return self.data

    @property
    def task(self) -> str:
        """The data where it is recorded, else the environment."""
        return "+".join(self.data) or self.env

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
