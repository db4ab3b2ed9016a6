# %% [markdown]
# # Add a model
# A whole family: a memory that predicts without seeing, and is corrected by what it did not foresee. In a package of
# yours, where this file is the module `my_package.corrector`, two lines of `pyproject.toml` make it known by name, to
# `AutoWorldModel.from_pretrained("corrector:tiny", env=env)`, `worldloom list` and saved directories:
#
#     [project.entry-points."worldloom_rl.models"]
#     corrector = "my_package.corrector"

# %%
import os
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl import CEMPlanner, WorldModel, WorldModelLoss, register_world_model
from worldloom_rl.config import WorldModelConfig
from worldloom_rl.world_model import Prediction

# %% [markdown]
# The numbers are a frozen dataclass. The model is functions of tensors with any batch shape: latents and observations
# are dictionaries, actions come flat, and the verbs, imagination, planning and saving follow from these.


# %%
@dataclass(frozen=True)
class CorrectorConfig(WorldModelConfig):
    memory: int = 256
    units: int = 256  # hidden width of the head


@register_world_model("corrector", CorrectorConfig, {"tiny": CorrectorConfig(64, 64), "small": CorrectorConfig()})
class Corrector(WorldModel):
    def __init__(self, config, observation_spec, action_spec, key_map=None):
        super().__init__(config, observation_spec, action_spec, key_map)
        self.latent_spec = Composite(memory=Bounded(-1.0, 1.0, shape=(config.memory,), dtype=torch.float32))
        self.widths = [observation_spec[key].shape.numel() for key in self.observation_keys]
        self.predictor = nn.GRUCell(self.action_space.width, config.memory)
        self.corrector = nn.GRUCell(sum(self.widths), config.memory)
        last = nn.Linear(config.units, 1 + sum(self.widths))
        self.head = nn.Sequential(nn.Linear(config.memory, config.units), nn.SiLU(), last)

    @staticmethod
    def default_specs():
        return Composite(observation=Unbounded(3)), Composite(action=Bounded(-1.0, 1.0, (1,), dtype=torch.float32))

    def encode_latent(self, observation, noise):
        batch = observation[self.observation_keys[0]].shape[:-1]
        return self.correct(self.initial_latent(batch)["memory"], observation)

    def filter_latent(self, previous, previous_action, observation, is_init, noise):
        memory = remember(self.predictor, previous_action, previous["memory"])
        return self.correct(torch.where(is_init, 0.0, memory), observation)

    def correct(self, memory, observation):
        surprise = torch.cat([observation[key] for key in self.observation_keys], -1) - self.head(memory)[..., 1:]
        return {"memory": remember(self.corrector, surprise, memory)}

    def predict_latent(self, latent, action, noise):
        arrived = {"memory": remember(self.predictor, action, latent["memory"])}
        reward = self.decode_latent(arrived)[self.key_map.reward]
        return Prediction(arrived, reward, torch.ones_like(reward))

    def decode_latent(self, latent):
        pieces = self.head(latent["memory"]).split([1, *self.widths], -1)
        return dict(zip((self.key_map.reward, *self.observation_keys), pieces, strict=True))

    def latent_features(self, latent):
        return latent["memory"]

    def discount(self, latent):
        return torch.full_like(latent["memory"][..., :1], 0.99)

    def compute_loss(self, batch, noise=None):
        """Terms [B, T] of rows of one episode: the first half is watched, the second foreseen from its actions."""
        action, half = self.read_previous_action(batch), batch.shape[1] // 2
        watched = {key: value[:, :half] for key, value in self.read_observation(batch).items()}
        starts = torch.arange(half).expand(len(batch), half).unsqueeze(-1) == 0
        carry = self.initial_latent(batch.shape[:1])
        memory = [*self.observe_sequence(carry, action, watched, starts, noise)["memory"].unbind(1)]
        for t in range(half, batch.shape[1]):
            memory.append(remember(self.predictor, action[:, t], memory[-1]))
        latent = {"memory": torch.stack(memory, 1)}
        terms = {key: (found - batch[key]).square().mean(-1) for key, found in self.decode_latent(latent).items()}
        posterior = self.write_latent(TensorDict(batch_size=batch.shape), latent)
        reward = terms.pop(self.key_map.reward)
        return {"observation": sum(terms.values()), "reward": reward}, posterior


def remember(cell, entry, memory):
    return cell(entry.reshape(-1, entry.shape[-1]), memory.reshape(-1, memory.shape[-1])).reshape(memory.shape)


# %% [markdown]
# It keeps the contract; it learns to foresee Pendulum; and a planner of ours acts through it, first at random.

# %%
if __name__ == "__main__":
    from tensordict.nn import TensorDictSequential

    from worldloom_rl.data import Arrivals, Replay
    from worldloom_rl.envs import make_env
    from worldloom_rl.specs.environment import specs_of
    from worldloom_rl.testing import check_world_model
    from worldloom_rl.training.evaluate import with_primers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    steps = int(os.environ.get("TUTORIAL_STEPS", "3000"))  # agent steps in three turns; a test takes fewer
    env = make_env("Pendulum-v1", action_repeat=2, num_envs=max(2, steps // 300), seed=0)  # episodes of 100 agent steps
    model = Corrector(CorrectorConfig(64, 64), *specs_of(env))
    check_world_model(model)

    planner = CEMPlanner(model, horizon=12, iterations=4, num_samples=128, num_elites=16)
    policy = TensorDictSequential(model.observe, planner, model.carry_action)
    env = with_primers(env, policy)
    arrivals = Arrivals(model.observation_keys, model.action_keys)
    held_out = arrivals(env.rollout(100)).rows.reshape(*env.batch_size, -1)[:, :20]
    replay = Replay(capacity=2 * steps, window=20, batch_size=64)
    loss = WorldModelLoss(model, {"observation": 1.0, "reward": 0.1})
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for turn in range(4):
        with torch.no_grad():
            error = model.compute_loss(held_out)[0]["observation"][:, 10:].mean()
        played = env.rollout(100, policy if turn else None)
        mean_return = played["next", "reward"].sum(1).mean()
        print(f"turn {turn}: error of what is foreseen {error:.3f}, return {mean_return:.0f}")
        replay.extend(arrivals(played))
        for _ in range(steps // 6 if turn < 3 else 0):
            loss(replay.sample())[0].sum(reduce=True).backward()
            optimizer.step()
            optimizer.zero_grad()
