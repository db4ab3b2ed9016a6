"""A single environment as a person meets it: its picture, what it gives, and its state to come back to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from worldloom_rl.config import Json
from worldloom_rl.envs.agent_steps import AgentSteps
from worldloom_rl.envs.real import simulators
from worldloom_rl.envs.rendering import render_frame
from worldloom_rl.envs.snapshot import CannotKeep, environment_state, restore_environment
from worldloom_rl.envs.tasks import InTask
from worldloom_rl.keys import GOAL, as_tuple
from worldloom_rl.specs.observations import is_byte_image
from worldloom_rl.world_model import Observation, WorldModel

_LARGEST = 256  # rows and columns of a picture; of a larger one every second or third is left out


class Arrival(NamedTuple):
    """What the world gives for an action; `ended` is whether its episode did, `picture` uint8 [height, width, 3]."""

    observation: Observation
    reward: float
    terminated: bool
    ended: bool
    picture: np.ndarray


class DrawnWorld:
    """A single environment, which draws itself.

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


def draw(env: EnvBase) -> np.ndarray:
    """uint8 [height, width, 3] of a single environment of `make_env`, as it stands.

    Raises ValueError if it draws nothing of that form; errors of the drawing are the simulator's.
    """
    (steps,) = simulators(env)
    steps = steps.env if isinstance(steps, InTask) else steps
    assert isinstance(steps, AgentSteps)
    return np.moveaxis(render_frame(steps.name, steps.env), 0, -1)


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
