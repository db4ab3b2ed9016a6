"""A small TD-MPC2 with starts, actors and rollouts, for the tests of imagination."""

from __future__ import annotations

import dataclasses

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import TransformedEnv

from worldloom_rl import GeneratorNoise, ImaginationEnv, LatentPolicy, WorldModel
from worldloom_rl.noise import Noise
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.world_model import Latent

BATCHES = [(), (5,), (3, 4)]
BOX = Composite(action=Bounded(-2.0, 1.0, shape=(2,), dtype=torch.float32))
COMPOSITE = Composite(steering=Bounded(-2.0, 1.0, shape=(2,)), gripper=Composite(mode=Categorical(3)))


def build(action_spec: Composite = BOX, *, episodic: bool = True, key_map: dict | None = None) -> WorldModel:
    """A small TD-MPC2 whose heads, zero when fresh, say something."""
    family, config = find_preset("tdmpc2:tiny")
    config = dataclasses.replace(config, episodic=episodic)
    model = family.model_class(config, Composite(observation=Unbounded((4,))), action_spec, key_map)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def seeded(model: WorldModel) -> WorldModel:
    model.noise = GeneratorNoise(torch.Generator().manual_seed(7))
    return model


def start_of(model: WorldModel, batch: tuple[int, ...]) -> TensorDict:
    observation = TensorDict({"observation": torch.randn(*batch, 4)}, batch)
    return model.encode(observation).select(*model.latent_keys).detach()


class Actor(LatentPolicy):
    """Noisy actions of a random linear map; one-hot groups take the likeliest class."""

    weight: Tensor

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model)
        width = model.latent_features(model.initial_latent()).shape[-1]
        self.weight = torch.nn.Parameter(torch.randn(width, model.action_space.width))

    def act(self, latent: Latent, noise: Noise) -> Tensor:
        logits = self.model.latent_features(latent) @ self.weight
        action = torch.tanh(logits + noise.normal("actor", logits.shape, logits))
        for start, stop in self.model.action_space.groups:
            best = torch.nn.functional.one_hot(logits[..., start:stop].argmax(-1), stop - start)
            action = torch.cat([action[..., :start], best.to(action.dtype), action[..., stop:]], -1)
        return action


class CountingActor(TensorDictModuleBase):
    """An actor that carries a counter, as planners carry their warm start, and writes a leaf of its own."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.actor = actor
        self.in_keys = [*actor.in_keys, ("memory", "count")]
        self.out_keys = [*actor.out_keys, "size", ("memory", "count"), ("next", "memory", "count")]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.actor(tensordict)
        tensordict["size"] = tensordict["action"].norm(dim=-1)
        count = tensordict["memory", "count"] + 1
        return tensordict.set(("memory", "count"), count).set(("next", "memory", "count"), count)


def rollout(
    env: ImaginationEnv | TransformedEnv, policy: TensorDictModuleBase | None, start: TensorDict, steps: int = 6
) -> TensorDict:
    return env.rollout(steps, policy, tensordict=start.clone(), set_state=True)


def assert_same(found: TensorDictBase, expected: TensorDictBase) -> None:
    """Same keys, dimension names, device, and values bit for bit."""
    assert set(found.keys(True)) == set(expected.keys(True))
    assert found.batch_size == expected.batch_size
    assert found.names == expected.names
    assert found.device == expected.device
    for key in expected.keys(True, True):
        assert found[key].dtype == expected[key].dtype
        assert torch.equal(found[key], expected[key]), key
