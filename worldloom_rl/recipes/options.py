"""What `worldloom train` can be told, one dataclass a family. Light: nothing of torch is imported before it is used."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensordict.nn import TensorDictModuleBase
    from torchrl.envs import EnvBase
    from torchrl.modules import RandomPolicy

    from worldloom_rl.models.dreamerv3 import DreamerV3Config
    from worldloom_rl.models.jepa import JEPAConfig
    from worldloom_rl.models.tdmpc2 import TDMPC2Config
    from worldloom_rl.models.tokens import TokensConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every `worldloom train` can be told. Steps are agent steps, summed over environments: one action each."""

    env: str  # "Pendulum-v1", "module:Id" or "dmc:cartpole-balance"
    preset: str = "tiny"  # see `worldloom list`
    overrides: tuple[str, ...] = ()  # numbers of the preset to replace, such as horizon=5
    steps: int = 3000  # agent steps to collect
    action_repeat: int | None = None  # simulator steps an action is held for; by default 2 for dmc:, else 1
    num_envs: int = 1  # environments stepped side by side
    pixels: bool = False  # observe rendered images
    time_limit: int | None = None  # simulator steps of an episode; by default the environment's own
    rescale_observations: bool = False  # bring the entries of the observation that have bounds to [-1, 1]
    capacity: int = 1_000_000  # most rows kept in replay
    replay_gb: float | None = None  # most gigabytes (1e9 bytes) of rows kept in replay
    memmap_above_gb: float = 4.0  # a replay that can grow larger is kept in memory-mapped files in the run directory
    eval_every: int = 1000  # agent steps between evaluations; one more stands at the end
    eval_episodes: int = 10  # episodes of an evaluation, played side by side
    final_eval_episodes: int = 20  # episodes of the last evaluation, which no other evaluation played
    target_return: float | None = None  # training ends before its last step when an evaluation's mean return reaches it
    checkpoint_every: int = 5000  # agent steps between checkpoints; one more stands at the end
    seed: int = 0  # of weights, environments, exploration and replay
    threads: int = 1  # of torch; a second one rarely pays at small sizes
    device: str = "cpu"  # where the model learns
    compile: bool = False  # build one step of the model with torch.compile; needs a C++ compiler, and a minute at first
    profile: bool = False  # tell at the end where the time went, also in profile.json
    logger: str | None = None  # "wandb": log there too, beside CSV and TensorBoard
    run_directory: str | None = None  # by default runs/<family>-<environment>-seed<seed>-<time>

    def __post_init__(self) -> None:
        for name in ("steps", "num_envs", "capacity", "eval_every", "eval_episodes", "final_eval_episodes", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.logger not in (None, "wandb"):
            raise ValueError(f'logger must be "wandb" or left out, got {self.logger!r}.')
        if self.logger == "wandb" and importlib.util.find_spec("wandb") is None:
            raise ImportError("logger=\"wandb\" needs wandb: pip install 'worldloom-rl[wandb]'.")

    @property
    def repeat(self) -> int:
        """The action repeat that holds, the default filled in."""
        return self.action_repeat or (2 if self.env.startswith("dmc:") else 1)

    @property
    def frame_stack(self) -> int:
        """Images in one observation."""
        return 1

    @property
    def task(self) -> str:
        """What is learned from, for people and in the name of the run directory."""
        return self.env

    def env_options(self) -> dict[str, Any]:
        """What `make_env` is told beside the name, the number and the seed."""
        return {
            "action_repeat": self.repeat,
            "pixels": self.pixels,
            "frame_stack": self.frame_stack,
            "time_limit": self.time_limit,
            "rescale_observations": self.rescale_observations,
        }

    def make_env(self, num_envs: int, seed: int) -> EnvBase:
        """Environments as the agent of this run acts in them."""
        from worldloom_rl.envs import make_env

        return make_env(self.env, num_envs=num_envs, seed=seed, **self.env_options())

    def replay_rows(self) -> int:
        """Capacity that the run can fill: an episode has one row more than steps."""
        return min(self.capacity, 2 * self.steps + 1000)


@dataclass(frozen=True, kw_only=True)
class RecordedRunConfig(RunConfig):
    """What a run can be told whose policy and update can be CUDA graphs."""

    cuda_graphs: bool = False  # on a GPU, start acting and an update's passes by one call each

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cuda_graphs:
            from worldloom_rl.training.cuda_graphs import check_device

            check_device(self.device)


@dataclass(frozen=True, kw_only=True)
class DreamerV3RunConfig(RecordedRunConfig):
    """What `worldloom train dreamerv3` can be told. Steps are agent steps, summed over environments."""

    bfloat16: bool = False  # compute in bfloat16 under autocast, as the official code; weights and losses stay float32

    @property
    def model_config(self) -> DreamerV3Config:
        """The preset with the overrides."""
        from worldloom_rl.models.dreamerv3 import DreamerV3Config
        from worldloom_rl.recipes.loop import preset_config

        config = preset_config("dreamerv3", self.preset, self.overrides)
        assert isinstance(config, DreamerV3Config)
        return config


@dataclass(frozen=True, kw_only=True)
class TDMPC2RunConfig(RecordedRunConfig):
    """What `worldloom train tdmpc2` can be told. Steps are agent steps, summed over environments: one action each."""

    episodic: bool = False  # the environment can terminate: learn a termination head
    seed_steps: int | None = None  # random agent steps before learning; by default the preset's, at least 5 episodes

    @property
    def frame_stack(self) -> int:
        """Three images stand in one observation."""
        return 3 if self.pixels else 1

    def model_config(self, length: int) -> TDMPC2Config:
        """The preset with the overrides, and with γ for episodes of that many agent steps unless it is overridden."""
        from worldloom_rl.models.tdmpc2 import TDMPC2Config
        from worldloom_rl.models.tdmpc2.config import discount_for
        from worldloom_rl.recipes.loop import preset_config

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
        from worldloom_rl.models.tokens import TokensConfig
        from worldloom_rl.recipes.loop import preset_config

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
    steps: int = 3000  # gradient updates
    collect: int = 10_000  # agent steps that are collected before them, unless there is data
    policy: str = "random"  # what collects: "random", or "module:function" that makes a policy of the environment
    frame_skip: int = 1  # k: the model sees every k-th frame, and k actions as one
    image_size: int | None = None  # rows and columns of rendered and recorded images; by default 64, or as recorded
    held_out: float = 0.05  # share of recorded episodes that are not learned from, at least one; they judge the model
    bfloat16: bool = False  # compute in bfloat16 under autocast, as the official code; weights and losses stay float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.env or self.data):
            raise ValueError("A JEPA learns from an environment (env) or from recorded episodes (data): name one.")
        for name in ("collect", "frame_skip"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0.0 <= self.held_out < 1.0:
            raise ValueError(f"held_out must be a share in [0, 1), got {self.held_out}.")
        if self.data and self.policy != "random":
            raise ValueError(f"policy={self.policy!r} would collect, but data={self.data!r} is learned from.")

    @property
    def task(self) -> str:
        """The data where it is recorded, else the environment."""
        return self.data or self.env

    @property
    def model_config(self) -> JEPAConfig:
        """The preset with the overrides."""
        from worldloom_rl.models.jepa import JEPAConfig
        from worldloom_rl.recipes.loop import preset_config

        config = preset_config("jepa", self.preset, self.overrides)
        assert isinstance(config, JEPAConfig)
        return config

    def env_options(self) -> dict[str, Any]:
        """As the agent acts: a block of `frame_skip` actions at once."""
        return {**super().env_options(), "image_size": self.image_size or 64, "action_block": self.frame_skip}

    def make_collection_env(self, num_envs: int, seed: int) -> EnvBase:
        """As data is collected: every frame is seen, so that windows can start at any."""
        from worldloom_rl.envs import make_env

        return make_env(self.env, num_envs=num_envs, seed=seed, **{**self.env_options(), "action_block": 1})

    def make_collection_policy(self, env: EnvBase) -> TensorDictModuleBase | RandomPolicy:
        """What `policy` names. Raises ValueError if that is no function of a module."""
        from torchrl.modules import RandomPolicy

        if self.policy == "random":
            return RandomPolicy(env.full_action_spec)
        module, _, function = self.policy.partition(":")
        try:
            make: Callable[[EnvBase], TensorDictModuleBase] = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f'policy must be "random" or "module:function", whose function makes a TorchRL policy of the '
                f"environment; {self.policy!r} is not: {error}."
            ) from error
        return make(env)

    def replay_rows(self) -> int:
        """Capacity that the collection can fill."""
        return min(self.capacity, 2 * self.collect + 1000)
