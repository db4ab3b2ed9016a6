"""A world that its model knows to the bit: a point slid about, and models that foresee it right, or the wrong way."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl import LatentPolicy, WorldModel
from worldloom_rl.config import WorldModelConfig
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import Latent, Observation, Prediction

LENGTH = 12  # steps of an episode


class Slide(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observes and draws a position [2], which an action slides by its eighth; the first number is the reward."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium declares it on instances
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (2,), np.float32)

    def __init__(self, render_mode: str | None = None, lock: bool = False) -> None:
        self.render_mode = render_mode
        self.lock = threading.Lock() if lock else None  # whose state nothing can keep

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.position = 0, self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.position.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.position = self.position + action / 8
        return self.position.copy(), float(self.position[0]), self.steps == LENGTH, False, {}

    def render(self) -> np.ndarray:
        picture: np.ndarray = np.zeros((8, 12, 3), np.uint8)
        picture[:4], picture[4:] = np.clip(self.position * 40 + 128, 0, 255).astype(np.uint8)[:, None, None]
        return picture


class Undrawn(Slide):
    """Without a picture."""

    def render(self) -> None:  # type: ignore[override]
        """Draws nothing."""


class Modeless(Slide):
    """Without a choice of how it is drawn."""

    def __init__(self) -> None:
        super().__init__()


gymnasium.register("Modeless-v0", Modeless, max_episode_steps=LENGTH)
gymnasium.register("Undrawn-v0", Undrawn, max_episode_steps=LENGTH)
gymnasium.register("Slide-v0", Slide, max_episode_steps=LENGTH)
gymnasium.register("UnkeptSlide-v0", Slide, max_episode_steps=LENGTH, kwargs={"lock": True})


@dataclass(frozen=True)
class KnowingConfig(WorldModelConfig):
    """Nothing to set."""


class Knowing(WorldModel):
    """Foresees `Slide`; with `way` -1, everything slid the other way. Its agent goes to the left by a third."""

    model_type = "knowing"

    def __init__(self, way: float = 1.0) -> None:
        super().__init__(KnowingConfig(), *self.default_specs())
        self.latent_spec = Composite(position=Unbounded((2,)))
        self.way = torch.nn.Parameter(torch.tensor(way))

    def encode_latent(self, observation: Observation, noise: Noise) -> Latent:
        return {"position": observation["observation"]}

    def filter_latent(
        self, previous: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> Latent:
        return self.encode_latent(observation, noise)

    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        position = latent["position"] + self.way * action / 4
        return Prediction({"position": position}, position[..., :1], torch.ones_like(position[..., :1]))

    def latent_features(self, latent: Latent) -> Tensor:
        return latent["position"]

    def discount(self, latent: Latent) -> Tensor:
        return torch.ones(1)

    def terminal_value(self, latent: Latent, noise: Noise) -> Tensor:
        return 10 * latent["position"][..., :1]

    def make_policy(self, **options: Any) -> TensorDictSequential:
        return TensorDictSequential(self.observe, Left(self), self.carry_action)

    def compute_loss(
        self, batch: TensorDictBase, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], TensorDictBase]:
        raise NotImplementedError("It knows everything.")

    @staticmethod
    def default_specs() -> tuple[Composite, Composite]:
        return Composite(observation=Unbounded((2,))), Composite(action=Bounded(-2.0, 2.0, (2,)))


class Left(LatentPolicy):
    """The farther to the right, the faster to the left."""

    def act(self, latent: Latent, noise: Noise) -> Tensor:
        return -latent["position"] / 3
