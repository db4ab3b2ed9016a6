"""What `worldloom train` can be told of each family. Nothing heavy is imported before a method asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from worldloom_rl.config import Limits, added_field, found_field, ranged
from worldloom_rl.recipes.suites import NO_SUITE, Suite, dreamerv3_suite, tdmpc2_suite
from worldloom_rl.tasks import LISTS, TaskSet, environment_name, named_tasks, plain_name
from worldloom_rl.training.options import MOST_STEPS, ActorsRunConfig, EnvOptions
from worldloom_rl.training.options import CapturedRunConfig as CapturedRunConfig
from worldloom_rl.training.options import RunConfig as RunConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchrl.envs import EnvBase

    from worldloom_rl.config import WorldModelConfig
    from worldloom_rl.data.codec import LeafCodec
    from worldloom_rl.envs.tasks import Described
    from worldloom_rl.models.dreamerv3.config import DreamerV3Config
    from worldloom_rl.models.jepa.config import JEPAConfig
    from worldloom_rl.models.tdmpc2.config import TDMPC2Config
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
    # how replay keeps latents: as they are, the one-hot state as bytes (exactly), or also the deterministic as bfloat16
    replay_codec: Literal["none", "exact", "bfloat16"] = added_field("none", before="none")

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
class TDMPC2RunConfig(ActorsRunConfig):
    """What `worldloom train tdmpc2` can be told; `env`, or several `tasks`. Steps are agent steps, summed over
    environments: one action each. With recorded `data` nothing is collected, and steps, evaluations, checkpoints and
    logs count gradient updates.
    """

    env: str = ""  # "Pendulum-v1", "module:Id" or "dmc:cartpole-balance"
    # environments that one agent learns, such as dmc:cup-catch dmc:cartpole-balance; mt30 and mt80 are lists of them
    tasks: tuple[str, ...] = added_field((), before=())
    # recorded episodes instead of collected ones: run directories, tdmpc2:DIR, minari:NAME, …; TASK=SOURCE names a task
    data: tuple[str, ...] = added_field((), before=())
    eval_tasks: tuple[str, ...] = added_field((), before=())  # those that evaluations play; by default all
    # of a task that has no environment, such as a robot's: it is learned from data alone, and γ follows from this
    episode_length: int | None = added_field(None, before=None, limits=Limits(1, MOST_STEPS))
    # the environment can terminate: learn a termination head; by default random episodes tell, or the recorded ones
    episodic: bool | None = found_field()
    seed_steps: int | None = ranged(None, 1, MOST_STEPS)  # random ones before learning; by default 5 episodes or more
    # official settings of the suite that the environment is of, or none
    suite: Literal["published", "none"] = added_field("published", before="none")

    def __post_init__(self) -> None:
        if len(self.tasks) == 1 and self.tasks[0] not in LISTS and not self.env:  # one task needs no number
            object.__setattr__(self, "env", environment_name(self.tasks[0]))
            object.__setattr__(self, "tasks", ())
        super().__post_init__()
        if bool(self.env) == bool(self.tasks):
            raise ValueError(
                f"TD-MPC2 learns one environment (--env) or several (--tasks), got {self.env!r} and "
                f"{list(self.tasks)}: name one of them, also where data is recorded."
            )
        if self.tasks and self.pixels:
            raise ValueError("TD-MPC2 learns several tasks from vectors only; leave pixels off.")
        if self.episode_length is not None and (self.tasks or not self.data):
            raise ValueError(
                f"episode_length={self.episode_length} tells the agent steps of an episode where one task (--env) has "
                "recorded data and no environment; else environments tell them."
            )
        if self.eval_tasks and not self.tasks:
            raise ValueError(f"eval_tasks={list(self.eval_tasks)} are some of several tasks, but there is one.")

    @property
    def earlier(self) -> tuple[str, ...]:
        """The recorded data."""
        return self.data

    @property
    def frame_stack(self) -> int:
        """Three images stand in one observation."""
        return 3 if self.pixels else 1

    @property
    def task(self) -> str:
        """The environment, or the tasks: the few by name, the many by number."""
        if not self.tasks:
            return self.env
        return "+".join(map(plain_name, self.tasks)) if len(self.tasks) <= 3 else f"{len(self.task_names)}-tasks"

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, lists written out; that of the environment where there is one task."""
        return named_tasks(self.tasks) if self.tasks else (self.env,)

    @property
    def repeat(self) -> int:
        """As of every run; of tasks that differ in it, the least."""
        if self.action_repeat is not None or not self.tasks:
            return super().repeat
        return min(2 if environment_name(name).startswith("dmc:") else 1 for name in self.task_names)

    @property
    def found(self) -> tuple[str, ...]:
        """Whether episodes end by themselves, too."""
        return (*(("episodes can end by themselves, and where is learned",) if self.episodic else ()), *super().found)

    @property
    def official(self) -> Suite:
        """What the authors set for the environment's suite, without what is told here or overridden."""
        suite = NO_SUITE if self.tasks or self.suite == "none" else tdmpc2_suite(self.env)
        return suite.without(self.action_repeat, self.overrides)

    def described(self) -> Described:
        """What the environments of several tasks say of them, or the data of one that has none."""
        if self.episode_length is not None:
            return self._recorded_task(self.episode_length)
        return _described(self.task_names, *self._task_options)

    def _recorded_task(self, length: int) -> Described:
        from worldloom_rl.data import open_episodes
        from worldloom_rl.envs.tasks import Described
        from worldloom_rl.specs.actions import ActionSpace
        from worldloom_rl.specs.observations import leaves_of

        episodes = open_episodes(self.data, (self.env,), self.rendered_size)
        observed = sum(leaf.shape.numel() for leaf in leaves_of(episodes.observation_spec).values())
        widths = ((observed,), (ActionSpace(episodes.action_spec).width,))
        return Described(TaskSet((self.env,), *widths, (length,)), (self.env,), {})

    def task_set(self) -> TaskSet:
        """Names and sizes of the tasks, or of the one environment where that observes and takes one vector."""
        return self.described().tasks

    @property
    def without_environment(self) -> tuple[str, ...]:
        """The tasks that can be learned from data only."""
        if self.episode_length is not None:
            return (self.env,)
        return self.described().without if self.tasks else ()

    @property
    def played_tasks(self) -> tuple[str, ...]:
        """Those of several tasks that evaluations play.

        Raises ValueError for one that is named and is none of them, or has no environment.
        """
        tasks, without = self.task_set(), self.without_environment
        if missing := [name for name in self.eval_tasks if tasks.names[tasks.number(name)] in without]:
            raise ValueError(f"There are no environments {missing} to play in; leave these tasks out.")
        numbers = [tasks.number(name) for name in self.eval_tasks] or range(len(tasks))
        return tuple(tasks.names[number] for number in numbers if tasks.names[number] not in without)

    @property
    def _task_options(self) -> tuple[int | None, int | None, bool]:
        return self.action_repeat, self.time_limit, bool(self.rescale_observations)

    def make_env(self, num_envs: int, seed: int) -> EnvBase:
        """Environments as the agent of this run acts in them: of several tasks, those of the first that is played."""
        if self.episode_length is not None:
            raise ValueError(f"{self.env} is known by its data alone (episode_length): there is nothing to act in.")
        return (
            self._make_task_env(self.played_tasks[:1], num_envs, seed)
            if self.tasks
            else super().make_env(num_envs, seed)
        )

    def make_collection_env(self, seed: int) -> EnvBase:
        """Those that are collected in, `num_envs` of each task."""
        if not self.tasks:
            return self.make_env(self.num_envs, seed)
        if self.without_environment:
            raise ValueError(
                f"There are no environments {list(self.without_environment)} to collect in; give recorded data."
            )
        return self._make_task_env(self.task_names, self.num_envs, seed)

    def make_evaluation_env(self, episodes: int, seed: int) -> EnvBase:
        """So many of each task that evaluations play."""
        return self._make_task_env(self.played_tasks, episodes, seed) if self.tasks else self.make_env(episodes, seed)

    def _make_task_env(self, played: tuple[str, ...], num_envs: int, seed: int) -> EnvBase:
        from worldloom_rl.envs.tasks import make_task_env

        repeat, limit, rescale = self._task_options
        return make_task_env(
            self.task_set(),
            played,
            num_envs=num_envs,
            seed=seed,
            action_repeat=repeat,
            time_limit=limit,
            rescale_observations=rescale,
            parallel=self.in_processes,
        )

    def model_config(self, length: int = 0) -> TDMPC2Config:
        """The preset with the overrides, and what a run finds out itself unless it is overridden.

        Args:
            length: of an episode of one task, in agent steps, which gives γ. Several tasks have theirs.
        """
        from worldloom_rl.models.tdmpc2.config import TDMPC2Config, discount_for, fields_of_tasks
        from worldloom_rl.training.overrides import preset_config

        if self.tasks:
            learned = fields_of_tasks(self.task_set())
        else:
            discount = min(discount_for(length), self.official.most_discount or 1.0)
            learned = {"discount": discount, **self.official.numbers}
        config = preset_config("tdmpc2", self.preset, self.overrides, **learned, episodic=bool(self.episodic))
        assert isinstance(config, TDMPC2Config)
        return config


@cache
def _described(
    names: tuple[str, ...], action_repeat: int | None, time_limit: int | None, rescale_observations: bool
) -> Described:
    from worldloom_rl.envs.tasks import describe_tasks

    return describe_tasks(
        names, action_repeat=action_repeat, time_limit=time_limit, rescale_observations=rescale_observations
    )


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
