"""Real environments from gymnasium, DeepMind Control, Atari and Crafter, as TorchRL environments in one fixed form.

Whatever turns a simulator's step into an agent's step (action repeat, frame stack, data types) stands in one numpy
wrapper *below* TorchRL: there the repeat stops at the end of an episode, which `FrameSkipTransform` does not, and it
costs microseconds where a TorchRL transform costs a tenth of a millisecond.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import gymnasium
import torch
from torchrl.envs import EnvBase, GymWrapper, InitTracker, SerialEnv, TransformedEnv

from worldloom_rl.config import Json
from worldloom_rl.envs.agent_steps import AgentSteps, Frames
from worldloom_rl.envs.by_name import make_simulator, rescaled
from worldloom_rl.envs.by_object import Maker, given_simulator, name_of
from worldloom_rl.envs.rendering import render_without_display
from worldloom_rl.envs.simulator_output import Simulator
from worldloom_rl.envs.workers import Workers
from worldloom_rl.specs.spaces import texts
from worldloom_rl.torchrl_insides import members, wrapped

T = TypeVar("T")


def make_env(
    name: str | Simulator | Maker,
    *,
    num_envs: int = 1,
    action_repeat: int = 1,
    action_block: int = 1,
    pixels: bool = False,
    frame_stack: int = 1,
    image_size: int = 64,
    time_limit: int | None = None,
    rescale_observations: bool = False,
    env_kwargs: Mapping[str, Json] | None = None,
    seed: int | None = None,
    parallel: bool = False,
) -> EnvBase:
    """A TorchRL environment with float32 observations and rewards, `is_init`, and true `terminated`/`truncated`.

    Batch size [] for one environment, [num_envs] for several. Observations stand under "observation", under their own
    keys if gymnasium gives a dictionary (TorchRL renames a "state" without "observation" to that), or, with `pixels`,
    under "pixels": uint8 [3·frame_stack, image_size, image_size], the oldest frame first. Observed images of bytes stay
    uint8; those [H, W, C], whose channels are fewer than their rows and columns, become [C, H, W], and a stack of them
    [S·C, H, W]. Other numbers become float32, discrete observations one-hot; texts beside others are left out, with a
    warning. Actions keep their own bounds; discrete ones are one-hot. What the simulator gives is held to its spaces at
    every step, see `observation_reader`. Where it gives an "action_mask", in `info` or among its observations, the next
    allowed action is played in place of a forbidden one (see `envs.action_mask`).

    Args:
        name: "Pendulum-v1" (gymnasium), "module:Id" (imports the module, which registers the id, or has a class or a
            function of that name),
            "worldloom/Catch-v0" (a game in the package, observed as uint8 [3, 64, 64]), or
            "dmc:cartpole-balance": DeepMind Control, all its observations concatenated in their order;
            "ale:Pong": gymnasium's "ALE/Pong-v5" as DreamerV3 plays the Atari benchmark, uint8 [1, 96, 96], sticky and
            all 18 actions; "ale100k:Pong": as it plays Atari 100k, uint8 [3, 64, 64], only the game's actions. Both
            repeat an action for four frames themselves, which are one simulator step here: leave `action_repeat` at 1;
            "crafter:reward" or "crafter", and "crafter:noreward": Crafter, uint8 [3, 64, 64].
            Or a gymnasium environment itself, or a function without arguments that makes one, called for each.
        num_envs: stepped one after another, or, with `parallel`, in a process each; one is never put in a process. The
            values are the same, see `envs.workers`.
        action_repeat: simulator steps an action is held for; rewards are summed, an episode's end stops it early.
        action_block: k actions that are given at once, as one action [k·A], and done one after the other; only the last
            observation is seen. Each is held for `action_repeat` simulator steps, and so on as there.
        frame_stack: images in one observation; the first one is repeated at a reset.
        time_limit: simulator steps, as gymnasium's `max_episode_steps`, before action repeat; by default the
            environment's own. `episode_length` gives it in agent steps.
        rescale_observations: bring those entries of gymnasium's observation that have bounds to [-1, 1].
        env_kwargs: arguments of the constructor of a gymnasium environment that is named.
        seed: of the first environment; the others get distinct ones derived from it.

    Example:
        >>> env = make_env("Pendulum-v1", action_repeat=2)
        >>> env.rollout(3)["next", "reward"].shape, episode_length(env)
        (torch.Size([3, 1]), 100)
    """
    _check_given(name, num_envs, env_kwargs)
    counts = {
        "num_envs": num_envs,
        "action_repeat": action_repeat,
        "action_block": action_block,
        "frame_stack": frame_stack,
        "image_size": image_size,
    }
    for argument, count in counts.items():
        if count < 1:
            raise ValueError(f"{argument} must be at least 1, got {count}.")
    if time_limit is not None and time_limit < 1:
        raise ValueError(f"time_limit must be at least 1 simulator step, got {time_limit}.")
    if frame_stack > 1 and not pixels:
        raise ValueError(f"frame_stack={frame_stack} stacks images, but pixels=False: set pixels=True.")

    # Built once here, so that a wrong name or a space that cannot be used is reported by this process, not by a worker.
    settings = (
        action_repeat, action_block, pixels, frame_stack, image_size, time_limit, rescale_observations,
        dict(env_kwargs or {}),
    )  # fmt: skip
    steps = _agent_steps(name, *settings)
    if not pixels and (left_out := texts(steps.env.observation_space)):
        warnings.warn(f"{steps.name}: models read no texts, so the observations {left_out} are left out.", stacklevel=1)
    if num_envs == 1:
        env: EnvBase = GymWrapper(steps)
    else:
        steps.close()
        create = partial(_single, _registered(name), name, *settings)
        env = (Workers if parallel else SerialEnv)(num_envs, create)
    env = _RealEnv(env, steps.episode_length)
    if seed is not None:
        env.set_seed(seed)
    return env


def episode_length(env: EnvBase) -> int:
    """The longest episode of an environment of `make_env`, in agent steps: ceil(time limit / action repeat).

    The environment may stand under further transforms, for example those a collector adds.
    """
    inner = env
    while isinstance(inner, TransformedEnv):
        if isinstance(inner, _RealEnv):
            return inner.length
        inner = inner.base_env
    raise ValueError(
        f"{type(env).__name__} does not say how long its episodes are; build it with worldloom_rl.envs.make_env."
    )


def simulators(env: EnvBase) -> Iterator[Simulator]:
    """The gymnasium environments, one for each of the batch, that this process steps.

    Raises TypeError if there are others: in processes of their own (see `of_each`) or not from gymnasium.
    """
    env = _batch(env)
    for single in members(env) if isinstance(env, SerialEnv) else [env]:
        if not isinstance(single, GymWrapper):
            raise TypeError(f"{type(single).__name__} is not a gymnasium environment of this process.")
        yield wrapped(single)


def of_each(env: EnvBase, function: Callable[..., T], *arguments: Sequence[object]) -> Iterator[T]:
    """What the function, which can be pickled, gives of each gymnasium environment of the batch, where it is stepped.

    Args:
        arguments: one sequence each, with one item for each environment, of the calls beside the environment.
    Raises what the function does, and TypeError for an environment that is not from gymnasium.
    """
    env = _batch(env)
    if isinstance(env, Workers):
        yield from env.each(_of_simulator, [function] * env.num_workers, *arguments)
    else:
        yield from map(function, simulators(env), *arguments)


def _of_simulator(env: EnvBase, function: Callable[..., T], *arguments: object) -> T:
    (simulator,) = simulators(env)
    return function(simulator, *arguments)


def _batch(env: EnvBase) -> EnvBase:
    while isinstance(env, TransformedEnv):
        env = env.base_env
    return env


class _RealEnv(TransformedEnv):  # type: ignore[misc]  # TorchRL has no types
    """Adds `is_init` and remembers the episode length, where a ParallelEnv need not ask its workers for it."""

    def __init__(self, env: EnvBase, length: int) -> None:
        super().__init__(env, InitTracker())
        self.__dict__["length"] = length

    length: int

    def close(self, **options: object) -> None:
        """Closes the simulators; torch keeps its number of threads, which TorchRL's batched environments raise here."""
        threads = torch.get_num_threads()
        super().close(**options)
        torch.set_num_threads(threads)


def _check_given(given: object, num_envs: int, env_kwargs: Mapping[str, Json] | None) -> None:
    """Raise TypeError, ValueError unless `make_env` can make so many of it."""
    if isinstance(given, EnvBase | gymnasium.vector.VectorEnv) or not (
        isinstance(given, str | gymnasium.Env) or callable(given)
    ):
        raise TypeError(
            f"make_env takes the name of an environment, an environment of gymnasium or a function that makes one, got "
            f"a {type(given).__name__}: register it by gymnasium.register(id, entry_point, max_episode_steps=…), and "
            "give its id."
        )
    if isinstance(given, gymnasium.Env) and num_envs > 1:
        raise ValueError(f"num_envs={num_envs} needs as many environments, got one: give a function that makes them.")
    if env_kwargs and not isinstance(given, str):
        raise ValueError(f"env_kwargs={dict(env_kwargs)} belong to a name: make the environment with them.")


def _registered(given: object) -> gymnasium.envs.registration.EnvSpec | None:
    """What gymnasium knows of an environment by its name, which its process may not."""
    return gymnasium.registry.get(given) if isinstance(given, str) else None


def _single(spec: gymnasium.envs.registration.EnvSpec | None, *arguments: Any) -> EnvBase:
    if spec is not None:
        gymnasium.registry.setdefault(spec.id, spec)
    return GymWrapper(_agent_steps(*arguments))


def _agent_steps(
    given: str | Simulator | Maker,
    action_repeat: int,
    action_block: int,
    pixels: bool,
    frame_stack: int,
    image_size: int,
    time_limit: int | None,
    rescale_observations: bool,
    env_kwargs: Mapping[str, Json],
) -> AgentSteps:
    if pixels:
        render_without_display()
    if isinstance(given, str):
        name = given
        simulator, limit = make_simulator(given, pixels, image_size, time_limit, env_kwargs)
    else:
        name = name_of(given)
        simulator, limit = given_simulator(given, pixels, time_limit)
    if rescale_observations:
        simulator = rescaled(name, simulator)
    image = Frames(frame_stack, image_size) if pixels else None
    length = math.ceil(limit / action_repeat / action_block)
    return AgentSteps(simulator, name, action_repeat, length, image, action_block)
