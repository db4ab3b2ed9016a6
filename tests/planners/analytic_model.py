"""World models whose dynamics are a formula, and noise that remembers its draws: what the planner tests stand on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Composite, TensorSpec, Unbounded

from worldloom_rl import GeneratorNoise, WorldModel
from worldloom_rl.config import WorldModelConfig
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import Latent, Observation, Prediction

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | float]]


@dataclass(frozen=True)
class AnalyticConfig(WorldModelConfig):
    width: int = 1  # of the state
    gamma: float = 1.0


class Analytic(WorldModel):
    """A fully observed model: its latent is the state, and `step` maps (state, action) to (state, reward, continue)."""

    model_type = "analytic"

    def __init__(self, step: Step, action: TensorSpec, width: int = 1, gamma: float = 1.0) -> None:
        spec = action if isinstance(action, Composite) else Composite(action=action)
        super().__init__(AnalyticConfig(width, gamma), Composite(observation=Unbounded((width,))), spec)
        self.latent_spec = Composite(deterministic=Unbounded((width,)))
        self.step = step
        self.gamma = gamma

    @property
    def recurrent(self) -> bool:
        return False

    def encode_latent(self, observation: Observation, noise: Noise) -> Latent:
        return {"deterministic": observation["observation"]}

    def filter_latent(
        self, previous: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> Latent:
        return self.encode_latent(observation, noise)

    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        state, reward, continuation = self.step(latent["deterministic"], action)
        return Prediction({"deterministic": state}, reward, torch.ones_like(reward) * continuation)

    def latent_features(self, latent: Latent) -> Tensor:
        return latent["deterministic"]

    def discount(self, latent: Latent) -> Tensor:
        return latent["deterministic"].new_tensor([self.gamma])

    def compute_loss(
        self, batch: TensorDictBase, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], TensorDictBase]:
        raise NotImplementedError("An analytic model has nothing to learn.")

    @staticmethod
    def default_specs() -> tuple[Composite, Composite]:
        raise NotImplementedError("An analytic model is built for its problem.")


class RecordingNoise(Noise):
    """Passes draws of another source on and keeps them by name, in order."""

    def __init__(self, source: Noise) -> None:
        self.source = source
        self.draws: dict[str, list[Tensor]] = {}

    def _keep(self, name: str, draw: Tensor) -> Tensor:
        self.draws.setdefault(name, []).append(draw)
        return draw

    def normal(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._keep(name, self.source.normal(name, shape, like))

    def uniform(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._keep(name, self.source.uniform(name, shape, like))

    def exponential(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._keep(name, self.source.exponential(name, shape, like))

    def integers(self, name: str, high: int, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._keep(name, self.source.integers(name, high, shape, like))

    def permutation(self, name: str, count: int, like: Tensor) -> Tensor:
        return self._keep(name, self.source.permutation(name, count, like))

    def keep(self, name: str, shape: Sequence[int], rate: float, like: Tensor) -> Tensor:
        return self._keep(name, self.source.keep(name, shape, rate, like))

    def of_row(self, row: int) -> dict[str, list[Tensor]]:
        """The draws that planning for this row of the batch alone would ask for.

        "sample" is [H, B, …], "pair" is shared by all rows, the rest is [B, …].
        """
        axis: dict[str, int] = {"sample": 1}
        return {
            name: draws if name == "pair" else [draw.narrow(axis.get(name, 0), row, 1) for draw in draws]
            for name, draws in self.draws.items()
        }


def seeded(seed: int = 0) -> GeneratorNoise:
    return GeneratorNoise(torch.Generator().manual_seed(seed))


def plan_from(planner: Any, state: Tensor, noise: Noise, *, mean: Tensor | None = None, explore: bool = False) -> Any:
    """The plan for states [B, D], without warm start unless one is given."""
    width = planner.model.action_space.width
    mean = state.new_zeros(len(state), planner.horizon, width) if mean is None else mean
    return planner.plan({"deterministic": state}, mean, noise, explore=explore)
