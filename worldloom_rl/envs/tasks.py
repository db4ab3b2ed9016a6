"""Environments of several tasks in one form: the observation padded, the task's number beside it, the action cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torchrl.data import Bounded, Composite
from torchrl.envs import EnvBase, GymWrapper, SerialEnv

from worldloom_rl.config import Json
from worldloom_rl.envs.agent_steps import AgentSteps
from worldloom_rl.envs.real import _RealEnv, make_env, simulators
from worldloom_rl.envs.rendering import drawing_arguments
from worldloom_rl.envs.simulator_output import Info, Step
from worldloom_rl.envs.workers import Workers
from worldloom_rl.tasks import TaskSet, environment_name, published_task

OBSERVATION, TASK = "observation", "task"


class InTask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A task's agent steps as an agent of several tasks takes them.

    Observes {"observation": float32 [O] with zeros behind the task's own numbers, "task": its number}; takes float32
    [A] in [-1, 1], of which the first ones are the task's own, from low to high.

    Args:
        widths: O and A; by default those of the widest task.
    """

    def __init__(self, env: AgentSteps, tasks: TaskSet, task: int, widths: tuple[int, int] | None = None) -> None:
        super().__init__(env)
        self.task = task
        self.observation_width, self.action_width = widths or (tasks.observation_width, tasks.action_width)
        space = env.action_space
        assert isinstance(space, spaces.Box)
        self._own, self._space = space.shape[0], space
        self._unit = bool((space.low == -1).all() and (space.high == 1).all())
        self.observation_space = spaces.Dict(
            {
                OBSERVATION: spaces.Box(-np.inf, np.inf, (self.observation_width,), np.float32),
                TASK: spaces.Discrete(len(tasks)),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (self.action_width,), np.float32)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[dict[str, object], Info]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._seen(observation), info

    def step(self, action: np.ndarray) -> Step[dict[str, object]]:
        own = np.asarray(action)[: self._own]
        if not self._unit:  # bit for bit the agent's where it is
            own = self._space.low + (own + 1) / 2 * (self._space.high - self._space.low)
        observation, reward, terminated, truncated, info = self.env.step(own)
        return self._seen(observation), float(reward), terminated, truncated, info

    def _seen(self, observation: dict[str, np.ndarray]) -> dict[str, object]:
        own = observation[OBSERVATION]
        padded = np.zeros(self.observation_width, np.float32)  # a new one: TorchRL does not copy
        padded[: len(own)] = own
        return {OBSERVATION: padded, TASK: self.task}


class Described(NamedTuple):
    """What the environments of tasks say of them.

    Attributes:
        without: names of the tasks that have none.
        action_specs: by the names of the others, with each one's own bounds.
    """

    tasks: TaskSet
    without: tuple[str, ...]
    action_specs: dict[str, Composite]


def describe_tasks(
    names: Sequence[str],
    *,
    action_repeat: int | None = None,
    time_limit: int | None = None,
    rescale_observations: bool = False,
) -> Described:
    """Widths and lengths of tasks by their environments.

    Only tasks of the published lists are known without one. What an environment shows of its observations and actions
    must be one vector each.

    Args:
        names: as `make_env` takes them, or of the published lists.
        action_repeat, time_limit, rescale_observations: as for `make_env`, of every task; an action is by default held
            for two simulator steps of DeepMind Control, for one of any other.
    """
    sizes, without, action_specs = [], [], {}
    for name in names:
        published = published_task(name)
        try:
            env = _task_steps(name, action_repeat, time_limit, rescale_observations)
        except (ValueError, ImportError):
            if published is None:
                raise
            without.append(name)
            sizes.append((published.observation_widths[0], published.action_widths[0], published.episode_lengths[0]))
        else:
            own = _sizes(name, env)
            sizes.append((own.observation_width, own.action_width, env.episode_length))
            action_specs[name] = _actions(env.action_space)
            env.close()
    columns = [tuple(column) for column in zip(*sizes, strict=True)] or [(), (), ()]
    return Described(TaskSet(tuple(names), *columns), tuple(without), action_specs)


def make_task_env(
    tasks: TaskSet,
    played: Sequence[str] | None = None,
    *,
    num_envs: int = 1,
    action_repeat: int | None = None,
    time_limit: int | None = None,
    rescale_observations: bool = False,
    seed: int | None = None,
    parallel: bool = False,
    drawn: bool = False,
) -> EnvBase:
    """A TorchRL environment of tasks side by side, as `make_env`'s but for what `InTask` observes and takes.

    Batch size [tasks played · num_envs], a task's environments next to each other; [] for a single one.

    Args:
        tasks: that the agent knows.
        played: names of those to step, by default all.
        num_envs: of each task.
        action_repeat, time_limit, rescale_observations: as for `describe_tasks`.
        seed: of the first environment; the others get distinct ones derived from it.
        parallel: as for `make_env`.
        drawn: made so that they can be drawn.

    Example:
        >>> tasks = describe_tasks(["Pendulum-v1", "MountainCarContinuous-v0"]).tasks
        >>> env = make_task_env(tasks, num_envs=2)
        >>> env.reset()["observation"].shape, env.reset()["task"].tolist()
        (torch.Size([4, 3]), [0, 0, 1, 1])
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
    numbers = [tasks.number(name) for name in (tasks.names if played is None else played)]
    if not numbers:
        raise ValueError("No task is to be played; name at least one.")
    options = (action_repeat, time_limit, rescale_observations)

    def single(task: int) -> EnvBase:
        asked = drawing_arguments(environment_name(tasks.names[task])) if drawn else None
        steps = InTask(_task_steps(tasks.names[task], *options, asked), tasks, task)
        return GymWrapper(steps, categorical_action_encoding=True)  # the task's number as a number

    places = [{"task": number} for number in numbers for _ in range(num_envs)]
    together = Workers if parallel else SerialEnv
    env: EnvBase = single(**places[0]) if len(places) == 1 else together(len(places), single, create_env_kwargs=places)
    env = _RealEnv(env, max(tasks.episode_lengths[number] for number in numbers))
    if seed is not None:
        env.set_seed(seed)
    return env


def make_padded_env(
    name: str,
    widths: tuple[int, int],
    *,
    num_envs: int = 1,
    action_repeat: int | None = None,
    time_limit: int | None = None,
    rescale_observations: bool = False,
    env_kwargs: Mapping[str, Json] | None = None,
    seed: int | None = None,
    parallel: bool = False,
) -> EnvBase:
    """A TorchRL environment of one task, in the form of `make_task_env`, for an agent that knew wider ones.

    Args:
        widths: numbers that the agent observes and takes.
        env_kwargs: arguments of the constructor.
        parallel: as for `make_env`.
    Raises ValueError if the task observes or takes more.
    """

    def single() -> EnvBase:
        steps = _task_steps(name, action_repeat, time_limit, rescale_observations, env_kwargs)
        task = _sizes(name, steps)
        for does, own, most in zip(
            ("observes", "takes"), (task.observation_width, task.action_width), widths, strict=True
        ):
            if own > most:
                steps.close()
                raise ValueError(
                    f"{name} {does} {own} numbers, but the model {most} at most: what is wider than its tasks were "
                    "does not fit its weights. Train a new model."
                )
        return GymWrapper(InTask(steps, task, 0, widths), categorical_action_encoding=True)

    env = single()
    task = own_task(name, env)
    if num_envs > 1:
        env.close()
        env = (Workers if parallel else SerialEnv)(num_envs, single)
    env = _RealEnv(env, task.episode_lengths[0])
    if seed is not None:
        env.set_seed(seed)
    return env


def own_task(name: str, env: EnvBase) -> TaskSet:
    """The task of an environment of `make_padded_env`, with its own widths."""
    return _sizes(name, _own(env))


def own_action_spec(env: EnvBase) -> Composite:
    """The actions of the task itself, in their own bounds."""
    return _actions(_own(env).action_space)


def _own(env: EnvBase) -> AgentSteps:
    padded = next(simulators(env))
    assert isinstance(padded, InTask)
    assert isinstance(padded.env, AgentSteps)
    return padded.env


def _actions(space: spaces.Space[Any]) -> Composite:
    assert isinstance(space, spaces.Box)
    return Composite(action=Bounded(torch.tensor(space.low), torch.tensor(space.high)))


def _sizes(name: str, steps: AgentSteps) -> TaskSet:
    observed, space = steps.observation_space, steps.action_space
    assert isinstance(observed, spaces.Dict)
    assert isinstance(space, spaces.Box)
    return TaskSet((name,), (spaces.flatdim(observed[OBSERVATION]),), space.shape, (steps.episode_length,))


def _task_steps(
    name: str,
    action_repeat: int | None,
    time_limit: int | None,
    rescale_observations: bool,
    env_kwargs: Mapping[str, Json] | None = None,
) -> AgentSteps:
    """The task's agent steps. Raises ValueError if it observes or takes anything but one vector of numbers."""
    known = environment_name(name)
    repeat = action_repeat or (2 if known.startswith("dmc:") else 1)
    env = make_env(
        known,
        action_repeat=repeat,
        time_limit=time_limit,
        rescale_observations=rescale_observations,
        env_kwargs=env_kwargs,
    )
    (steps,) = simulators(env)
    assert isinstance(steps, AgentSteps)
    seen = steps.observation_space
    assert isinstance(seen, spaces.Dict)
    observed = seen[OBSERVATION] if set(seen) == {OBSERVATION} else seen
    for role, space in (("observes", observed), ("takes", steps.action_space)):
        if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.dtype == np.uint8:
            steps.close()
            raise ValueError(
                f"{name} {role} {space}; a task among several observes one vector and takes another: register it "
                "under gymnasium.wrappers.FlattenObservation, or train it by itself (--env)."
            )
    return steps
