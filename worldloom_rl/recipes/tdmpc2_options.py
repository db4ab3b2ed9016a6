"""What `worldloom train tdmpc2` can be told: one environment or several tasks, collected in or recorded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from worldloom_rl.config import Limits, added_field, found_field, ranged
from worldloom_rl.recipes.suites import NO_SUITE, Suite, tdmpc2_suite
from worldloom_rl.tasks import LISTS, TaskSet, environment_name, named_tasks, plain_name
from worldloom_rl.training.options import MOST_STEPS, ActorsRunConfig

if TYPE_CHECKING:
    from torchrl.envs import EnvBase

    from worldloom_rl.envs.tasks import Described
    from worldloom_rl.models.tdmpc2.config import TDMPC2Config


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
    # official settings of the suite that the environment is of, and ours of episodes that can end, or none
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
        if self.tasks and self.env_kwargs:
            raise ValueError(
                f"env_kwargs={list(self.env_kwargs)} are arguments of one environment (--env), but there are several "
                "tasks: register each with its own, gymnasium.register(id, entry_point, kwargs={…})."
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
        """As of every run."""
        return named_tasks(self.tasks) if self.tasks else super().task_names

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
        if not self.tasks:
            return super().make_env(num_envs, seed)
        return self._make_task_env(self.played_tasks[:1], num_envs, seed)

    def make_drawn_env(self, seed: int) -> EnvBase:
        """One environment of the first task that is played, or of the one task, which can be drawn."""
        if not self.tasks:
            return super().make_drawn_env(seed)
        return self._make_task_env(self.played_tasks[:1], 1, seed, drawn=True)

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

    def _make_task_env(self, played: tuple[str, ...], num_envs: int, seed: int, *, drawn: bool = False) -> EnvBase:
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
            drawn=drawn,
        )

    def model_config(self, length: int = 0) -> TDMPC2Config:
        """The preset with the overrides, and what a run finds out itself unless it is overridden.

        Args:
            length: of an episode of one task, in agent steps, which gives γ. Several tasks have theirs.
        """
        from worldloom_rl.models.tdmpc2.config import ENDS, TDMPC2Config, discount_for, fields_of_tasks
        from worldloom_rl.training.overrides import preset_config

        if self.tasks:
            learned = fields_of_tasks(self.task_set())
        else:
            discount = min(discount_for(length), self.official.most_discount or 1.0)
            ours = ENDS.get(self.preset, {}) if self.episodic and self.suite != "none" and not self.data else {}
            learned = {"discount": discount, **ours, **self.official.numbers}
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
