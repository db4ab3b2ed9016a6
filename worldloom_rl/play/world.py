"""The simulator as the person meets it: its picture, what it gives, and its state to come back to."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from worldloom_rl.config import Json
from worldloom_rl.envs.drawing import draw, drawing_arguments
from worldloom_rl.envs.rendering import render_without_display
from worldloom_rl.envs.snapshot import CannotKeep, environment_state, restore_environment
from worldloom_rl.keys import GOAL, as_tuple
from worldloom_rl.specs.observations import is_byte_image
from worldloom_rl.training.options import RunConfig
from worldloom_rl.world_model import Observation, WorldModel

_LARGEST = 256  # rows and columns of a picture; of a larger one every second or third is left out


class Arrival(NamedTuple):
    """What the world gives for an action; `ended` is whether its episode did, `picture` uint8 [height, width, 3]."""

    observation: Observation
    reward: float
    terminated: bool
    ended: bool
    picture: np.ndarray


class World:
    """A single environment of a run, which draws itself.

    Where the model decodes an image, the picture is that observation, so that the dream's is one of the same kind.

    Args:
        env: one environment of `make_env`, closed by `close`.
        image: the observation that is the picture; None to let the simulator draw.
    """

    def __init__(self, env: EnvBase, model: WorldModel, image: NestedKey | None) -> None:
        self.env, self.model, self.image = env, model, image
        self.device = model.action_space.center.device
        self.gives_goals = all(env.observation_spec.get(key, None) is not None for key in _goals(model))

    def begin(self) -> Arrival:
        """A new episode."""
        return self._arrival(self.env.reset(), 0.0)

    def step(self, action: Tensor) -> Arrival:
        """What follows on a flat action [A]."""
        row = self.model.write_action(TensorDict({}, batch_size=[]), action.cpu())
        arrived = self.env.step(row)["next"]
        return self._arrival(arrived, float(arrived["reward"]))

    def state(self) -> list[Json] | None:
        """Where the world stands, to come back to; None if it cannot tell."""
        try:
            return environment_state(self.env)
        except CannotKeep:
            return None

    def restore(self, state: list[Json]) -> None:
        """Puts the world where it stood."""
        restore_environment(self.env, state)

    def close(self) -> None:
        """Closes the simulator."""
        self.env.close()

    def _arrival(self, row: TensorDictBase, reward: float) -> Arrival:
        observation = {}
        for key in self.model.observation_keys:
            value = row.get(key, None)
            if value is None and key in _goals(self.model):
                value = self.model.observation_spec[key].zero()
            observation[key] = (self.model.read(row, key) if value is None else value).to(self.device)
        picture = draw(self.env) if self.image is None else picture_of(observation[self.image])
        return Arrival(observation, reward, bool(row["terminated"]), bool(row["done"]), smaller(picture))


def open_world(config: RunConfig, model: WorldModel, seed: int) -> World:
    """The world of a run. Raises ValueError if there is none, or nothing to show of it."""
    if not (config.env or getattr(config, "tasks", ())):
        raise ValueError(f"The run learned {config.task} from recorded episodes: there is no environment to play in.")
    image = decoded_image(model)
    if image is None:
        render_without_display()
        given = {text.partition("=")[0] for text in config.env_kwargs}
        asked = [f"{name}={value}" for name, value in drawing_arguments(config.env).items() if name not in given]
        config = config if config.pixels else dataclasses.replace(config, env_kwargs=(*config.env_kwargs, *asked))
    env = None
    try:
        env = config.make_env(1, seed)
        world = World(env, model, image)
        world.begin()
    except (ValueError, ImportError, gymnasium.error.Error) as error:
        if env is not None:
            env.close()
        if image is not None:
            raise
        raise ValueError(
            f"{config.task} cannot be drawn, and the model decodes no image, so there is nothing to look at: "
            f"{str(error)[:300]}"
        ) from error
    return world


def decoded_image(model: WorldModel) -> NestedKey | None:
    """The image that the model observes and decodes, the first of several; None if it decodes none."""
    images = [key for key in model.observation_keys if is_byte_image(model.observation_spec[key])]
    decoded = {as_tuple(key) for key in model.decoded_keys} if images else set()
    return next((key for key in images if as_tuple(key) in decoded), None)


def picture_of(image: Tensor) -> np.ndarray:
    """uint8 [height, width, 3] of an image [C, height, width] of levels to 255; of a stack of frames the newest."""
    newest = image[-3:] if image.shape[0] % 3 == 0 else image[-1:].expand(3, -1, -1)
    return np.asarray(newest.float().round().clamp(0, 255).byte().movedim(0, -1).cpu().numpy())


def smaller(picture: np.ndarray) -> np.ndarray:
    """The picture, with rows and columns left out where it is larger than people need."""
    each = -(-max(picture.shape[:2]) // _LARGEST)
    return np.ascontiguousarray(picture[::each, ::each])


def _goals(model: WorldModel) -> list[NestedKey]:
    return [key for key in model.observation_keys if as_tuple(key)[0] == GOAL]
