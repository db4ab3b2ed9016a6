"""Real environments from gymnasium, DeepMind Control, Atari and Crafter, as TorchRL environments in one fixed form.

Whatever turns a simulator's step into an agent's step (action repeat, frame stack, data types) stands in one numpy
wrapper *below* TorchRL: there the repeat stops at the end of an episode, which `FrameSkipTransform` does not, and it
costs microseconds where a TorchRL transform costs a tenth of a millisecond.
"""

from __future__ import annotations

import difflib
import importlib
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torchrl.envs import EnvBase, GymWrapper, InitTracker, ParallelEnv, SerialEnv, TransformedEnv

from worldloom_rl import keys
from worldloom_rl.envs import atari, crafter
from worldloom_rl.specs.spaces import (
    action_block_space,
    action_space_of,
    convert_observation,
    observation_space_of,
    resize_image,
)

_DMC = "dmc:"
_DMC_DOMAINS = {"cup": "ball_in_cup", "pointmass": "point_mass"}  # tdmpc2 envs/dmcontrol.py, make_env


def make_env(
    name: str,
    *,
    num_envs: int = 1,
    action_repeat: int = 1,
    action_block: int = 1,
    pixels: bool = False,
    frame_stack: int = 1,
    image_size: int = 64,
    time_limit: int | None = None,
    rescale_observations: bool = False,
    seed: int | None = None,
    parallel: bool = False,
) -> EnvBase:
    """A TorchRL environment with float32 observations and rewards, `is_init`, and true `terminated`/`truncated`.

    Batch size [] for one environment, [num_envs] for several. Observations stand under "observation", under their own
    keys if gymnasium gives a dictionary (TorchRL renames a "state" without "observation" to that), or, with `pixels`,
    under "pixels": uint8 [3·frame_stack, image_size, image_size], the oldest frame first. Observed images stay uint8,
    and those [H, W, C], whose 1, 3 or 4 channels are fewer than their rows and columns, become [C, H, W]; other bytes
    become float32, discrete observations one-hot. Actions keep their own bounds; discrete ones are one-hot.

    Args:
        name: "Pendulum-v1" (gymnasium), "module:Id" (imports the module, which registers the id),
            "worldloom/Catch-v0" (a game in the package, observed as uint8 [3, 64, 64]), or
            "dmc:cartpole-balance": DeepMind Control, all its observations concatenated in their order;
            "ale:Pong": gymnasium's "ALE/Pong-v5" as DreamerV3 plays the Atari benchmark, uint8 [1, 96, 96], sticky and
            all 18 actions; "ale100k:Pong": as it plays Atari 100k, uint8 [3, 64, 64], only the game's actions. Both
            repeat an action for four frames themselves, which are one simulator step here: leave `action_repeat` at 1;
            "crafter:reward" or "crafter", and "crafter:noreward": Crafter, uint8 [3, 64, 64].
        num_envs: stepped one after another, or, with `parallel`, in a process each; one is never put in a process.
        action_repeat: simulator steps an action is held for; rewards are summed, an episode's end stops it early.
        action_block: k actions that are given at once, as one action [k·A], and done one after the other; only the last
            observation is seen. Each is held for `action_repeat` simulator steps, and so on as there.
        frame_stack: images in one observation; the first one is repeated at a reset.
        time_limit: simulator steps, as gymnasium's `max_episode_steps`, before action repeat; by default the
            environment's own. `episode_length` gives it in agent steps.
        rescale_observations: bring those entries of gymnasium's observation that have bounds to [-1, 1].
        seed: of the first environment; the others get distinct ones derived from it.

    Example:
        >>> env = make_env("Pendulum-v1", action_repeat=2)
        >>> env.rollout(3)["next", "reward"].shape, episode_length(env)
        (torch.Size([3, 1]), 100)
    """
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
    settings = (action_repeat, action_block, pixels, frame_stack, image_size, time_limit, rescale_observations)
    steps = _agent_steps(name, *settings)
    if num_envs == 1:
        env: EnvBase = GymWrapper(steps)
    else:
        steps.close()
        create = partial(_single, name, *settings)
        env = (ParallelEnv if parallel else SerialEnv)(num_envs, create)
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


def simulators(env: EnvBase) -> Iterator[gymnasium.Env[Any, Any]]:
    """The gymnasium environments, one for each of the batch, that this process steps.

    Raises TypeError if there are others: in processes of their own (ParallelEnv) or not from gymnasium.
    """
    while isinstance(env, TransformedEnv):
        env = env.base_env
    for single in env._envs if isinstance(env, SerialEnv) else [env]:
        if not isinstance(single, GymWrapper):
            raise TypeError(f"{type(single).__name__} is not a gymnasium environment of this process.")
        yield single._env


class _RealEnv(TransformedEnv):  # type: ignore[misc]  # TorchRL has no types
    """Adds `is_init` and remembers the episode length, where a ParallelEnv need not ask its workers for it."""

    def __init__(self, env: EnvBase, length: int) -> None:
        super().__init__(env, InitTracker())
        self.__dict__["length"] = length

    length: int

    def close(self, **options: Any) -> None:
        """Closes the simulators; torch keeps its number of threads, which TorchRL's batched environments raise here."""
        threads = torch.get_num_threads()
        super().close(**options)
        torch.set_num_threads(threads)


def _single(*arguments: Any) -> EnvBase:
    return GymWrapper(_agent_steps(*arguments))


def _agent_steps(
    name: str,
    action_repeat: int,
    action_block: int,
    pixels: bool,
    frame_stack: int,
    image_size: int,
    time_limit: int | None,
    rescale_observations: bool,
) -> AgentSteps:
    family = name.partition(":")[0]
    makers = dict.fromkeys(atari.PRESETS, _make_atari) | {"dmc": _make_dmc, "crafter": _make_crafter}
    make = makers.get(family, _make_gym)
    simulator, limit = make(name, pixels, image_size, time_limit)
    if rescale_observations:
        simulator = _rescaled(name, simulator)
    image = _Image(frame_stack, image_size) if pixels else None
    length = math.ceil(limit / action_repeat / action_block)
    return AgentSteps(simulator, name, action_repeat, length, image, action_block)


def _rescaled(name: str, simulator: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """The environment with the bounded entries of its observation in [-1, 1], the others as they are."""
    space = simulator.observation_space
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"{name} observes {space}; only a real Box can be rescaled: leave rescale_observations off, or register "
            "the environment under a gymnasium.wrappers.TransformObservation of your own."
        )
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    if not bounded.any():
        raise ValueError(f"{name} gives no bounds of its observation {space}, so nothing can be rescaled.")
    low, high = np.where(bounded, -1.0, space.low), np.where(bounded, 1.0, space.high)
    return gymnasium.wrappers.RescaleObservation(simulator, low.astype(space.dtype), high.astype(space.dtype))


# ------------------------------------------------------------------------------------------------ simulators


def _make_gym(name: str, pixels: bool, image_size: int, time_limit: int | None) -> tuple[gymnasium.Env[Any, Any], int]:
    """The gymnasium environment and its time limit in simulator steps."""
    module, _, identifier = name.rpartition(":")
    if module:
        importlib.import_module(module)  # registers the id; gymnasium.spec, other than gymnasium.make, does not import
    try:
        spec = gymnasium.spec(identifier)
    except gymnasium.error.Error as error:
        raise ValueError(f"gymnasium knows no {name!r}. {_did_you_mean(identifier, gymnasium.registry)}") from error
    limit = time_limit or spec.max_episode_steps
    if limit is None:
        raise ValueError(
            f"{name} has no time limit, and the discount and the replay need one: give it in simulator steps, "
            "make_env(…, time_limit=1000) or --time-limit 1000."
        )
    options: dict[str, Any] = {"render_mode": "rgb_array"} if pixels else {}
    if pixels and "gymnasium.envs.mujoco" in str(spec.entry_point):
        options |= {"width": image_size, "height": image_size}  # renders at the size asked for
    try:
        # The passive checker repeats at every step what TorchRL's specs say.
        return gymnasium.make(identifier, max_episode_steps=limit, disable_env_checker=True, **options), limit
    except gymnasium.error.DependencyNotInstalled as error:
        raise ImportError(f"gymnasium cannot make {name!r}: {error}") from error


def _make_dmc(name: str, pixels: bool, image_size: int, time_limit: int | None) -> tuple[gymnasium.Env[Any, Any], int]:
    """The DeepMind Control task as a gymnasium environment and its time limit in simulator steps."""
    if pixels and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")  # read once, when dm_control is imported
    suite = _dm_control_suite()
    domain, _, task = name.removeprefix(_DMC).partition("-")
    domain, task = _DMC_DOMAINS.get(domain, domain), task.replace("-", "_")
    if (domain, task) not in suite.ALL_TASKS:
        known = [_DMC + "-".join(pair) for pair in suite.ALL_TASKS]
        raise ValueError(f"DeepMind Control has no {name!r} (domain-task). {_did_you_mean(name, known)}")
    simulator = _DeepMindControl(suite, domain, task, image_size if pixels else None, own_limit=time_limit is None)
    limit = simulator.limit if time_limit is None else float(time_limit)
    if math.isinf(limit):
        raise ValueError(f"{name} has no time limit: give one, make_env(…, time_limit=1000) or --time-limit 1000.")
    if time_limit is not None:
        return gymnasium.wrappers.TimeLimit(simulator, time_limit), time_limit
    return simulator, math.ceil(limit)


def _dm_control_suite() -> ModuleType:
    try:
        return importlib.import_module("dm_control.suite")
    except ModuleNotFoundError as error:
        raise ImportError(
            "Names that begin with 'dmc:' need dm-control and mujoco below 4: pip install 'worldloom-rl[dmc]'."
        ) from error


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return (
        "Environments of another package are named module:Id, those of DeepMind Control dmc:domain-task, "
        "games of Atari ale:Game."
    )


def _make_atari(
    name: str, pixels: bool, image_size: int, time_limit: int | None
) -> tuple[gymnasium.Env[Any, Any], int]:
    """The game under its benchmark's preset and its time limit in steps of four frames."""
    preset, _, game = name.partition(":")
    known = atari.games()
    if game not in known:
        raise ValueError(
            f"The Atari emulator has no {name!r}. {_did_you_mean(name, [f'{preset}:{other}' for other in known])}"
        )
    limit = time_limit or atari.STEPS
    return gymnasium.wrappers.TimeLimit(atari.make_atari(game, atari.PRESETS[preset]), limit), limit


def _make_crafter(
    name: str, pixels: bool, image_size: int, time_limit: int | None
) -> tuple[gymnasium.Env[Any, Any], int]:
    """Crafter and its time limit in steps."""
    task = name.partition(":")[2] or "reward"
    limit = time_limit or crafter.STEPS
    return crafter.Crafter(task, size=image_size if pixels else crafter.SIZE, steps=limit), limit


class _DeepMindControl(gymnasium.Env[np.ndarray, np.ndarray]):
    """A DeepMind Control task: float32 observations concatenated in the task's order.

    The end of an episode is terminal only where the task says so (discount 0); TorchRL's `DMControlEnv` also takes
    any other discount below one for a terminal state.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium declares it on instances

    def __init__(self, suite: ModuleType, domain: str, task: str, image_size: int | None, *, own_limit: bool) -> None:
        options = {} if own_limit else {"time_limit": math.inf}
        self._task = suite.load(domain, task, task_kwargs=options)
        self._image_size = image_size
        self._camera = 2 if domain == "quadruped" else 0  # tdmpc2 envs/dmcontrol.py, Pixels
        self.render_mode = "rgb_array" if image_size else None
        self.limit = float(getattr(self._task, "_step_limit", math.inf))  # dm_control.rl.control.Environment
        action = self._task.action_spec()
        self.action_space = spaces.Box(action.minimum, action.maximum, dtype=action.dtype)
        size = sum(math.prod(leaf.shape) for leaf in self._task.observation_spec().values())
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self._task.task._random = np.random.RandomState(seed)  # as TorchRL's DMControlEnv does
        return self._observation(self._task.reset()), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        step = self._task.step(action)
        terminated = step.last() and step.discount == 0.0
        return self._observation(step), step.reward, terminated, step.last() and not terminated, {}

    def render(self) -> np.ndarray:
        image: np.ndarray = self._task.physics.render(self._image_size, self._image_size, camera_id=self._camera)
        return image

    def close(self) -> None:
        self._task.close()

    @staticmethod
    def _observation(step: Any) -> np.ndarray:
        return np.concatenate([np.ravel(leaf) for leaf in step.observation.values()]).astype(np.float32)


# --------------------------------------------------------------------------------------------- the agent's step


_SUCCESS = ("success", "is_success")  # as Meta-World and Gymnasium-Robotics name it in their info


class AgentSteps(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Action repeat, a check of every reward, and observations in the form `make_env` promises."""

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        name: str,
        action_repeat: int,
        episode_length: int,
        image: _Image | None,
        action_block: int = 1,
    ) -> None:
        super().__init__(env)
        self.action_block = action_block
        self.name, self.action_repeat, self.episode_length, self.image = name, action_repeat, episode_length, image
        self.action_space = action_block_space(name, action_space_of(name, env.action_space), action_block)
        if image is not None:
            self.observation_space = spaces.Dict({"pixels": image.space})
        else:
            self.observation_space = observation_space_of(name, env.observation_space)
        clashes = _names(self.action_space, keys.ACTION) & _names(self.observation_space, "observation")
        if clashes:
            raise ValueError(f"{name}: {sorted(clashes)} name both an action and an observation; rename one of them.")
        self.steps_done = 0
        self.succeeded: bool | None = None  # in this episode so far; None as long as the environment did not say
        self.last_success: bool | None = None  # of the episode that ended last

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.steps_done, self.succeeded = 0, None
        if self.image is not None:
            return {"pixels": self.image.first(self.env.render())}, info
        return convert_observation(self.env.observation_space, observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        block = [action] if self.action_block == 1 else np.split(np.asarray(action), self.action_block)
        for action in [part for part in block for _ in range(self.action_repeat)]:
            if self.action_block > 1 and isinstance(self.env.action_space, spaces.Discrete):
                action = action[0]
            action = _simulator_action(self.env.action_space, action)
            observation, reward, terminated, truncated, info = self.env.step(action)
            self.steps_done += 1
            total += float(reward)
            if not math.isfinite(total):
                raise ValueError(
                    f"{self.name} gave the reward {reward} at simulator step {self.steps_done} of its episode "
                    f"(action {action}); rewards must be finite: mend the environment."
                )
            for name in _SUCCESS:
                if name in info:
                    self.succeeded = bool(info[name]) or bool(self.succeeded)
            if terminated or truncated:
                self.last_success = self.succeeded
                break
        if self.image is not None:
            seen: Any = {"pixels": self.image.next(self.env.render())}
        else:
            seen = convert_observation(self.env.observation_space, observation)
        return seen, total, bool(terminated), bool(truncated), info


class _Image:
    """The last frames as one uint8 image [3·frames, size, size]."""

    def __init__(self, frames: int, size: int) -> None:
        self.size = size
        self.frames: deque[np.ndarray] = deque(maxlen=frames)
        self.space = spaces.Box(0, 255, (3 * frames, size, size), np.uint8)

    def first(self, frame: Any) -> np.ndarray:
        self.frames.extend([resize_image(np.moveaxis(frame, -1, 0), self.size)] * (self.frames.maxlen or 1))
        return np.concatenate(self.frames)

    def next(self, frame: Any) -> np.ndarray:
        self.frames.append(resize_image(np.moveaxis(frame, -1, 0), self.size))
        return np.concatenate(self.frames)


def _names(space: spaces.Space[Any], alone: str) -> set[str]:
    """The names at the root of the tensordict."""
    return set(space) if isinstance(space, spaces.Dict) else {alone}


def _simulator_action(space: spaces.Space[Any], action: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {part: _simulator_action(leaf, action[part]) for part, leaf in space.items()}
    return action + space.start if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else action
