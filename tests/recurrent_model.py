"""A small recurrent family for tests, as a third party would write one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, Composite, Unbounded

from worldloom_rl import WorldModel
from worldloom_rl.config import WorldModelConfig
from worldloom_rl.latents import CategoricalLatent
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import Latent, Observation, Prediction


@dataclass(frozen=True)
class RecurrentConfig(WorldModelConfig):
    deterministic: int = 8
    groups: int = 3
    classes: int = 4


class Recurrent(WorldModel):
    """A small RSSM: a GRU, a categorical state, and the goal of the episode as a context leaf."""

    model_type = "recurrent-for-tests"

    def __init__(
        self,
        config: RecurrentConfig,
        observation_spec: Composite,
        action_spec: Composite,
        key_map: Mapping[str, NestedKey] | None = None,
    ) -> None:
        super().__init__(config, observation_spec, action_spec, key_map)
        self.state = CategoricalLatent(config.groups, config.classes)
        size, width = observation_spec["position"].shape[0], self.state.features_width
        goal = observation_spec["goal"].shape[0]
        self.latent_spec = Composite(
            deterministic=Bounded(-1.0, 1.0, shape=(config.deterministic,)),
            stochastic=self.state.spec(),
            goal=Unbounded((goal,)),
        )
        self.cell = nn.GRUCell(width + self.action_space.width, config.deterministic)
        self.prior = nn.Linear(config.deterministic, width)
        self.posterior = nn.Linear(config.deterministic + size, width)
        self.decoder = nn.Linear(config.deterministic + width + goal, size)
        self.reward_head = nn.Linear(config.deterministic + width + goal, 1)
        self.continue_head = nn.Linear(config.deterministic + width + goal, 1)

    @staticmethod
    def default_specs() -> tuple[Composite, Composite]:
        return (
            Composite(position=Unbounded((4,)), goal=Unbounded((2,))),
            Composite(force=Bounded(-2.0, 1.0, shape=(2,)), grip=Composite(mode=Categorical(3))),
        )

    def encode_latent(self, observation: Observation, noise: Noise) -> Latent:
        batch = observation["goal"].shape[:-1]
        action = observation["goal"].new_zeros(*batch, self.action_space.width)
        is_init = torch.ones(*batch, 1, dtype=torch.bool)
        return self.filter_latent(self.initial_latent(batch), action, observation, is_init, noise)

    def filter_latent(
        self, previous: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> Latent:
        kept = (~is_init).float()
        memory = previous["deterministic"] * kept
        memory = self.remember(memory, previous["stochastic"] * kept.unsqueeze(-1), previous_action * kept)
        logits = self.posterior(torch.cat([memory, observation["position"]], -1))
        return self.latent(memory, self.state.sample(logits, noise), observation["goal"])

    def remember(self, memory: Tensor, stochastic: Tensor, action: Tensor) -> Tensor:
        entry = torch.cat([self.state.features(stochastic), action], -1)
        after = self.cell(entry.reshape(-1, entry.shape[-1]), memory.reshape(-1, memory.shape[-1]))
        return after.reshape(memory.shape)

    @staticmethod
    def latent(memory: Tensor, stochastic: Tensor, goal: Tensor) -> Latent:
        return {"deterministic": memory, "stochastic": stochastic, "goal": goal}

    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        memory = self.remember(latent["deterministic"], latent["stochastic"], action)
        arrived = self.latent(memory, self.state.sample(self.prior(memory), noise), latent["goal"])
        features = self.latent_features(arrived)
        return Prediction(arrived, self.reward_head(features), torch.sigmoid(self.continue_head(features)))

    def decode_latent(self, latent: Latent) -> dict[NestedKey, Tensor]:
        features = self.latent_features(latent)
        return {
            "position": self.decoder(features),
            self.key_map.reward: self.reward_head(features),
            self.key_map.continuation: torch.sigmoid(self.continue_head(features)),
        }

    def latent_features(self, latent: Latent) -> Tensor:
        return torch.cat([latent["deterministic"], latent["stochastic"].flatten(-2), latent["goal"]], -1)

    def discount(self, latent: Latent) -> Tensor:
        return torch.tensor(0.99)

    def compute_loss(
        self, batch: TensorDictBase, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], TensorDictBase]:
        carry = {name: value[:, 0] for name, value in self.read_latent(batch).items()}
        observation, is_init = self.read_observation(batch), batch[self.key_map.is_init]
        action = self.read_previous_action(batch)
        latent = self.observe_sequence(carry, action, observation, is_init, noise or self.noise)
        features = self.latent_features(latent)
        prior = self.state.log_probabilities(self.prior(latent["deterministic"]))
        terms = {
            "reconstruction": (self.decoder(features) - observation["position"]).square().mean(-1),
            "reward": (self.reward_head(features) - batch[self.key_map.reward]).square().squeeze(-1),
            "continue": F.binary_cross_entropy_with_logits(
                self.continue_head(features), (~batch[self.key_map.terminated]).float(), reduction="none"
            ).squeeze(-1),
            "dynamics": -(latent["stochastic"] * prior).sum((-2, -1)),
        }
        return terms, self.write_latent(TensorDict({}, batch_size=batch.batch_size), latent)
