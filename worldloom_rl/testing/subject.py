"""What the kit's checks run on: data of the model's specs, a copy of the model, and verbs under seeded noise."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn

from worldloom_rl.kernels.one_hot import one_hot
from worldloom_rl.noise import GeneratorNoise, Noise
from worldloom_rl.world_model import Latent, LatentPolicy, Verb, WorldModel

BATCHES = ((), (5,), (3, 4))
STEPS = 5  # of sequences and imagined rollouts


@runtime_checkable
class BuiltOnModules(Protocol):
    """A model with constructor arguments that its configuration does not describe: modules of the user's own."""

    @property
    def undescribed_modules(self) -> dict[str, nn.Module]:
        """These modules by the arguments' names."""


class Data:
    """Random tensordicts of the model's specs."""

    def __init__(self, model: WorldModel, observation: TensorDictBase | None) -> None:
        self.model = model
        self.given = None if observation is None else observation.select(*model.observation_keys).reshape(-1)

    def observations(self, batch: Sequence[int]) -> TensorDict:
        """Random observations, or some of the given ones."""
        if self.given is None:
            return self.model.observation_spec.rand(torch.Size(batch))
        rows = self.given[torch.randint(len(self.given), (torch.Size(batch).numel(),))]
        return rows.reshape(*batch).to_tensordict()

    def actions(self, batch: Sequence[int]) -> TensorDict:
        """Random actions, as the environment takes them."""
        return self.model.action_spec.rand(torch.Size(batch))

    def latents(self, subject: WorldModel, batch: Sequence[int]) -> TensorDict:
        """The latents of random observations, without gradient."""
        with torch.no_grad():
            return subject.encode(self.observations(batch)).select(*subject.latent_keys)

    def rows(self, subject: WorldModel, batch: Sequence[int]) -> TensorDict:
        """Arrival rows without resets; each with a latent of its own, as a carry."""
        names = subject.key_map
        rows = self.observations(batch)
        rows.update(self.latents(subject, batch))
        action = self.actions(batch)
        for key, previous in zip(subject.action_keys, subject.previous_action_keys, strict=True):
            rows.set(previous, action.get(key))
        rows.set(names.reward, torch.randn(*batch, 1))
        for key in (names.is_init, names.terminated, "truncated"):
            rows.set(key, torch.zeros(*batch, 1, dtype=torch.bool))
        return rows

    def inputs(self, subject: WorldModel, batch: Sequence[int]) -> TensorDict:
        """Everything that some verb reads."""
        return self.rows(subject, batch).update(self.actions(batch))


def arrivals(subject: WorldModel, data: Data) -> TensorDict:
    """Rows [4, T] of one episode each; one ends. A recurrent model also gets a reset inside a window."""
    rows = data.rows(subject, (4, STEPS))
    rows.get(subject.key_map.terminated)[1, -1] = True
    if subject.recurrent:
        rows.get(subject.key_map.is_init)[2, 2] = True
        for key in subject.previous_action_keys:
            rows.get(key)[2, 2] = 0
    return rows


class ProbePolicy(LatentPolicy):
    """A fixed random policy with draws of its own, over any action space."""

    weight: Tensor

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model)
        width = model.latent_features(model.initial_latent()).shape[-1]
        self.register_buffer("weight", torch.randn(width, model.action_space.width))

    def act(self, latent: Latent, noise: Noise) -> Tensor:
        logits = self.model.latent_features(latent) @ self.weight
        logits = logits + 0.5 * noise.normal("probe", logits.shape, logits)
        action = torch.tanh(logits)
        for start, stop in self.model.action_space.groups:
            chosen = one_hot(logits[..., start:stop].argmax(-1), stop - start).to(logits.dtype)
            action = torch.cat([action[..., :start], chosen, action[..., stop:]], -1)
        return action


def rebuild(model: WorldModel, key_map: Mapping[str, NestedKey] | None = None) -> WorldModel:
    """The same model, built anew from its configuration and specs, with the same weights."""
    names = model.key_map.to_json() if key_map is None else key_map
    # A family's constructor and configuration; the base class has a wider one.
    rebuilt: WorldModel = type(model)(
        model.config, model.observation_spec, model.action_spec, names, **own_modules(model)
    )
    rebuilt.load_state_dict(model.state_dict())
    rebuilt.train(model.training)
    return rebuilt


def own_modules(model: WorldModel) -> dict[str, nn.Module]:
    """Copies of the modules that the model needs beside its configuration, to build it again."""
    return copy.deepcopy(model.undescribed_modules) if isinstance(model, BuiltOnModules) else {}


def seeded(subject: WorldModel, seed: int = 1) -> WorldModel:
    """The model with its noise at the start of the seed's sequence."""
    subject.noise = GeneratorNoise(torch.Generator().manual_seed(seed))
    return subject


def verbs_of(subject: WorldModel) -> dict[str, Verb]:
    """The model's verbs by name."""
    return {"encode": subject.encode, "observe": subject.observe, "predict": subject.predict, "decode": subject.decode}


def run(subject: WorldModel, verb: Verb, given: TensorDictBase, seed: int = 1) -> TensorDictBase:
    """The verb on a copy of `given`, under the seed's noise."""
    seeded(subject, seed)
    with torch.no_grad():
        return verb(given.copy())


def latent_of(subject: WorldModel, td: TensorDictBase) -> TensorDict:
    """Only the latent leaves, as a plain tensordict."""
    return subject.write_latent(TensorDict({}, batch_size=td.batch_size), subject.read_latent(td))
