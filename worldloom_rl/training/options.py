"""What every run can be told. This file imports nothing heavy, so that a command line can show it at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypedDict

from worldloom_rl.config import Json, Limits, added_field, check_fields, found_field, ranged
from worldloom_rl.extras import require_installed
from worldloom_rl.training.env_arguments import env_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchrl.data import Composite
    from torchrl.envs import EnvBase

    from worldloom_rl.config import WorldModelConfig
    from worldloom_rl.data.codec import LeafCodec


class EnvOptions(TypedDict, total=False):
    """Keywords of `make_env`."""

    action_repeat: int
    action_block: int
    pixels: bool
    frame_stack: int
    image_size: int
    time_limit: int | None
    rescale_observations: bool
    env_kwargs: dict[str, Json]
    parallel: bool


# Beyond these a number is a slip of the keyboard, or would end in an error of something below.
MOST_STEPS = 10**9
MOST_ENVS = 4096
LARGEST_SEED = 2**31 - 1  # evaluations add to it, and NumPy's older generators take 32 bits


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every `worldloom train` can be told. Steps are agent steps, summed over environments: one action each."""

    env: str  # "Pendulum-v1", "module:Id" or "dmc:cartpole-balance"
    env_kwargs: tuple[str, ...] = added_field((), before=())  # of its constructor, such as gravity=-9.8
    preset: str = "tiny"  # see `worldloom list`
    overrides: tuple[str, ...] = ()  # numbers of the preset to replace, such as horizon=5
    steps: int = ranged(3000, 1, MOST_STEPS)  # agent steps to collect
    action_repeat: int | None = ranged(None, 1, 1000)  # simulator steps of an action; by default 2 for dmc:, else 1
    num_envs: int = ranged(1, 1, MOST_ENVS)  # environments stepped side by side
    # several environments, also those of evaluations, one after another or in a process each; `check` tells what pays
    parallel: Literal["serial", "processes"] = added_field("serial", before="serial")
    pixels: bool = False  # observe rendered images
    time_limit: int | None = ranged(None, 1, MOST_STEPS)  # simulator steps of an episode, by default its own
    # bring the entries of the observation that have bounds to [-1, 1]; by default TD-MPC2 does where bounds lie apart
    rescale_observations: bool | None = found_field()
    capacity: int = ranged(1_000_000, 1, 10**10)  # most rows kept in replay
    replay_gb: float | None = ranged(None, 1e-9, 1e6)  # most gigabytes (1e9 bytes) of rows kept in replay
    memmap_above_gb: float = ranged(4.0, 0.0, 1e6)  # a larger replay is kept in memory-mapped files in the run
    eval_every: int = ranged(1000, 1, MOST_STEPS)  # agent steps between evaluations; one more stands at the end
    eval_episodes: int = ranged(10, 1, MOST_ENVS)  # episodes of an evaluation, played side by side
    final_eval_episodes: int = ranged(20, 1, MOST_ENVS)  # of the last evaluation, which no other evaluation played
    first_evaluation: bool = added_field(True, before=True)  # evaluate the fresh model too, for two minutes at most
    target_return: float | None = None  # training ends before its last step when an evaluation's mean return reaches it
    checkpoint_every: int = ranged(5000, 1, MOST_STEPS)  # agent steps between checkpoints; one more stands at the end
    seed: int = ranged(0, 0, LARGEST_SEED)  # of weights, environments, exploration and replay
    threads: int = ranged(1, 1, 1024)  # of torch; a second one rarely pays at small sizes
    device: str = "cpu"  # where the model learns
    # build one step of the model with torch.compile, which takes a C++ compiler and a minute; by default a run does so
    # whose first steps tell that it is long enough to win that back
    compile: bool | None = None
    profile: bool = False  # tell at the end where the time went, also in profile.json
    logger: str | None = None  # "wandb": log there too, beside CSV and TensorBoard
    run_directory: str | None = None  # by default runs/<family>-<environment>-seed<seed>-<time>

    def __post_init__(self) -> None:
        check_fields(self)
        if self.logger not in (None, "wandb"):
            raise ValueError(f'logger must be "wandb" or left out, got {self.logger!r}.')
        if self.logger == "wandb":
            require_installed("wandb", extra="wandb", why='logger="wandb" needs wandb')
        env_arguments(self.env_kwargs)

    @property
    def repeat(self) -> int:
        """The action repeat that holds, the default filled in."""
        default = 2 if self.env.startswith("dmc:") else 1
        return default if self.action_repeat is None else self.action_repeat

    @property
    def frame_stack(self) -> int:
        """Images in one observation."""
        return 1

    # What some recipes can be told; a field of that name stands before the property.

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those of one agent, where it learns several."""
        return ()

    @property
    def data(self) -> tuple[str, ...]:
        """Recorded episodes that are learned from."""
        return ()

    @property
    def actors(self) -> int:
        """Other processes that collect."""
        return 0

    @property
    def explore(self) -> bool:
        """Whether the actor seeks what is not yet known, not the reward."""
        return False

    @property
    def task(self) -> str:
        """What is learned from, for people and in the name of the run directory."""
        return self.env

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, lists written out; that of the environment where there is one task."""
        return (self.env,)

    @property
    def earlier(self) -> tuple[str, ...]:
        """Runs and recorded data whose observations those of this run have to be like."""
        return ()

    @property
    def found(self) -> tuple[str, ...]:
        """What a run finds out or begins with, each part as half a sentence for its first line."""
        return ("observations rescaled to [-1, 1]",) if self.rescale_observations else ()

    def env_options(self) -> EnvOptions:
        """What `make_env` is told beside the name, the number and the seed."""
        return {
            "action_repeat": self.repeat,
            "pixels": self.pixels,
            "frame_stack": self.frame_stack,
            "time_limit": self.time_limit,
            "rescale_observations": bool(self.rescale_observations),
            "env_kwargs": env_arguments(self.env_kwargs),
            "parallel": self.in_processes,
        }

    @property
    def in_processes(self) -> bool:
        """Whether several environments are stepped in a process each."""
        return self.parallel == "processes"

    def make_env(self, num_envs: int, seed: int) -> EnvBase:
        """Environments as the agent of this run acts in them."""
        from worldloom_rl.envs import make_env

        return make_env(self.env, num_envs=num_envs, seed=seed, **self.env_options())

    def make_drawn_env(self, seed: int) -> EnvBase:
        """One of them that can be drawn, where it can be at all."""
        from worldloom_rl.envs.rendering import drawing_arguments

        given = {text.partition("=")[0] for text in self.env_kwargs}
        asked = [f"{name}={value}" for name, value in drawing_arguments(self.env).items() if name not in given]
        return (self if self.pixels else replace(self, env_kwargs=(*self.env_kwargs, *asked))).make_env(1, seed)

    def specs(self) -> tuple[Composite, Composite]:
        """Observation and action specs of the environment, for a run that does not collect in it."""
        from worldloom_rl.specs.environment import specs_of

        env = self.make_env(1, self.seed)
        try:
            return specs_of(env)
        finally:
            env.close()

    def latent_codec(self, model_config: WorldModelConfig) -> Mapping[str, LeafCodec]:
        """How replay keeps parts of a model's latent in fewer bytes, by their names; by default as they are."""
        return {}

    @property
    def rendered_size(self) -> int | None:
        """Rows and columns of rendered images, where they are what is observed."""
        return 64 if self.pixels else None

    def replay_rows(self) -> int:
        """Capacity that the run can fill: an episode has one row more than steps."""
        return min(self.capacity, 2 * self.steps + 1000)


@dataclass(frozen=True, kw_only=True)
class CapturedRunConfig(RunConfig):
    """What a run can be told whose policy and update can be captured as CUDA graphs."""

    cuda_graphs: bool = False  # on a GPU, start acting and an update's passes by one call each

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cuda_graphs and self.device.partition(":")[0] != "cuda":
            raise ValueError(f"cuda_graphs needs a CUDA device, got {self.device!r}. Leave it out, or set the device.")


@dataclass(frozen=True, kw_only=True)
class ActorsRunConfig(CapturedRunConfig):
    """What a run can be told whose rows other processes may collect: actors of Ray."""

    # processes that collect, each in num_envs environments of its own, on CPUs; 0 collects in this one
    actors: int = added_field(0, before=0, limits=Limits(0, 1024))
    ray: str | None = added_field(None, before=None)  # address of a running Ray, "auto" to find it; else this machine's
    # agent steps in each environment that an actor plays before it hands them on
    actor_steps: int = added_field(8, before=8, limits=Limits(1, 4096))
    actor_updates: int = added_field(10, before=10, limits=Limits(1, MOST_STEPS))  # between weights that actors get
    # seconds without a batch after which an actor is replaced
    actor_patience: float = added_field(300.0, before=300.0, limits=Limits(1.0, 1e6))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ray is not None and not self.actors:
            raise ValueError(
                f"ray {self.ray!r} is where actors run, but there are none: give --actors, or leave it out."
            )
        if not self.actors:
            return
        if self.data:
            raise ValueError(f"actors {self.actors} would collect, but recorded data is learned from: leave them out.")
        require_installed("ray", extra="ray", why="Actors run on Ray")

    @property
    def streams(self) -> int:
        """Environments that are collected in at the same time; of each task, where there are several."""
        return self.num_envs * max(1, self.actors)
