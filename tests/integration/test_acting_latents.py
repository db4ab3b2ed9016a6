"""What a recurrent policy carried while acting is what `observe` gives over the rows sampled back from replay."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from recurrent_model import Recurrent, RecurrentConfig
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper, SerialEnv
from torchrl.modules import set_recurrent_mode

from worldloom_rl import LatentPolicy, ModeNoise
from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.noise import Noise
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.world_model import Latent

STEPS = 30  # of each environment: episodes of 7 steps in one, of 11 in the other


class Walk(gymnasium.Env):
    """A point pushed about; each episode has a goal of its own and ends after `length` steps."""

    observation_space = spaces.Dict({"position": spaces.Box(-9, 9, (4,)), "goal": spaces.Box(-9, 9, (2,))})
    action_space = spaces.Box(-2.0, 1.0, (2,))

    def __init__(self, length: int) -> None:
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.position = 0, self.np_random.normal(size=4).astype(np.float32)
        self.goal = self.np_random.normal(size=2).astype(np.float32)
        return self.observed(), {}

    def step(self, action):
        self.steps += 1
        self.position = np.tanh(self.position + np.concatenate([action, -action]))
        return self.observed(), float(self.position.sum()), self.steps == self.length, False, {}

    def observed(self):
        return {"position": self.position.copy(), "goal": self.goal.copy()}


class Acting(LatentPolicy):
    """A fixed function of the latent, so that actions differ from row to row."""

    def act(self, latent: Latent, noise: Noise) -> Tensor:
        total = 7 * self.model.latent_features(latent).sum(-1, keepdim=True)
        return torch.sin(total + torch.arange(self.model.action_space.width))


def collect(model: Recurrent) -> Replay:
    env = SerialEnv(2, [lambda: GymWrapper(Walk(7)), lambda: GymWrapper(Walk(11))])
    env.set_seed(0)
    policy = TensorDictSequential(model.observe, Acting(model), model.carry_action)
    collector = Collector(
        env, policy, frames_per_batch=10, total_frames=2 * STEPS, auto_register_policy_transforms=True
    )
    arrivals = Arrivals(model.observation_keys, model.action_keys, model.latent_keys)
    replay = Replay(capacity=200, window=25, batch_size=64, by="window", generator=torch.Generator().manual_seed(0))
    for transitions in collector:
        replay.extend(arrivals(transitions))
    collector.shutdown()
    return replay


def observed(model: Recurrent, rows: torch.Tensor, carry_from: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of rows 1… from the latent of row `carry_from`, and where they are stored (not on terminal rows)."""
    window = rows[:, 1:].clone()
    for key in model.latent_keys:
        window[key][:, 0] = rows[key][:, carry_from]
    with set_recurrent_mode(True), torch.no_grad():
        latent = model.observe(window)["latent", "deterministic"]
    stored = ~(rows["truncated"] | rows["terminated"])[:, 1:].squeeze(-1)
    # The stream's newest row may still lack its latent: it comes with the row's own transition.
    stored[:, -1] &= rows["latent", "deterministic"][:, -1].abs().sum(-1) > 0
    return latent[stored], rows["latent", "deterministic"][:, 1:][stored]


@pytest.fixture(scope="module")
def collected() -> tuple[Recurrent, torch.Tensor]:
    torch.manual_seed(0)
    model = Recurrent(RecurrentConfig(), *specs_of(GymWrapper(Walk(7))))
    model.noise = ModeNoise()
    return model, collect(model).sample()


def test_acting_latents_equal_observe_over_the_rows_sampled_back(collected: tuple[Recurrent, torch.Tensor]) -> None:
    model, rows = collected
    assert rows["is_init"].sum(1).max() >= 3  # windows hold several episodes
    latent, stored = observed(model, rows, carry_from=0)
    assert len(stored) > 500
    torch.testing.assert_close(latent, stored, rtol=1e-5, atol=1e-6)


def test_a_carry_shifted_by_one_row_is_seen(collected: tuple[Recurrent, torch.Tensor]) -> None:
    model, rows = collected
    latent, stored = observed(model, rows, carry_from=1)
    assert (latent - stored).abs().max() > 1e-3
