"""What a family of world models writes: functions of tensors, and the keys that they are read from and written to.

`WorldModel` (model.py) makes verbs over tensordicts of them (verbs.py), and imagination (imagine.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import Composite
from torchrl.objectives import add_random_module

from worldloom_rl.config import WorldModelConfig
from worldloom_rl.functional.precision import PreciseBuffers, precise
from worldloom_rl.keys import KeyMap
from worldloom_rl.noise import GeneratorNoise, Noise
from worldloom_rl.specs.actions import ActionSpace

Latent = dict[str, Tensor]  # leaf name → tensor [*batch, *leaf shape]
Observation = dict[NestedKey, Tensor]
RewardFunction = Callable[[Latent, Latent], Tensor]  # latents before and after a step → [..., 1]


class Prediction(NamedTuple):
    """An imagined step: the latent arrived at, the reward [..., 1] of arriving, the probability [..., 1] of more."""

    latent: Latent
    reward: Tensor
    continuation: Tensor


def repeat_latent(latent: Latent, count: int) -> Latent:
    """Leaves [B, …] → [B, count, …] without copying."""
    return {name: value.unsqueeze(1).expand(-1, count, *(-1,) * (value.dim() - 1)) for name, value in latent.items()}


class TensorCore(PreciseBuffers, TensorDictModuleBase, ABC):  # type: ignore[misc]
    """The part of a `WorldModel` that knows tensors: seven functions that a family writes, and some that it may.

    Latents and observations are dictionaries of tensors [*batch, …] of any batch shape; actions come flat,
    [*batch, A], as `action_space` has them. Whatever is random is drawn from the `noise` argument.

    Cast as any module, by `model.double()` or `model.bfloat16()`, it keeps and computes latents in that precision;
    rewards, probabilities, distributions and bounds stay in float32 or better.

    Attributes:
        dtype: the precision of weights and latents.
        config: the family's frozen dataclass, as it was given.
        action_space: the flat view of the actions.
        latent_spec: Composite of the latent's leaves by name, un-batched; a family sets it.
        noise: source of the verbs' random draws; replace it to seed or replay them.
    """

    model_type: ClassVar[str]  # the name under which `register_world_model` made the class known
    latent_spec: Composite

    def __init__(
        self,
        config: WorldModelConfig,
        observation_spec: Composite,
        action_spec: Composite,
        key_map: Mapping[str, NestedKey] | None = None,
    ) -> None:
        super().__init__()
        self.config: Any = config  # of a class that only the family knows
        self.observation_spec = observation_spec
        self.action_spec = action_spec
        self.action_space = ActionSpace(action_spec)
        self.key_map = KeyMap.from_names(key_map or {})
        self.noise: Noise = GeneratorNoise()
        self.observation_keys: tuple[NestedKey, ...] = tuple(
            observation_spec.keys(include_nested=True, leaves_only=True)
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TensorCore:
        super()._apply(fn, recurse)
        for name, leaf in list(self.latent_spec.items()):
            if leaf.dtype.is_floating_point and leaf.dtype != self.dtype:
                self.latent_spec[name] = leaf.to(self.dtype)
        return self

    # ------------------------------------------------------------------ what every family writes

    @abstractmethod
    def encode_latent(self, observation: Observation, noise: Noise) -> Latent:
        """Latent of an observation alone."""

    @abstractmethod
    def filter_latent(
        self, previous: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> Latent:
        """Posterior of this row from the previous row's latent, the flat action [..., A] that led here, is_init."""

    @abstractmethod
    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        """Prior of the next row from a latent and a flat action [..., A]."""

    @abstractmethod
    def latent_features(self, latent: Latent) -> Tensor:
        """[..., F] flat view of the latent for heads, with the task embedding where there is one."""

    @abstractmethod
    def discount(self, latent: Latent) -> Tensor:
        """γ, broadcastable against [..., 1]."""

    @abstractmethod
    def compute_loss(
        self, batch: TensorDictBase, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], TensorDictBase]:
        """Unreduced loss terms by name, and the posterior (not detached), from [B, T] arrival rows."""

    @staticmethod
    @abstractmethod
    def default_specs() -> tuple[Composite, Composite]:
        """The observation and action specs that a preset is built for when none are given."""

    # ------------------------------------------------------------------ what a family may say, or say faster

    def decode_latent(self, latent: Latent) -> dict[NestedKey, Tensor]:
        """What is a function of the latent alone, by the key it is written to: observations, reward, continue."""
        return {}

    @property
    def decoded_keys(self) -> tuple[NestedKey, ...]:
        """What `decode_latent` gives, in its order: tried out, unless the family says so. One with images does."""
        with torch.no_grad():
            return tuple(self.decode_latent(self.initial_latent()))

    @property
    def recurrent(self) -> bool:
        """Whether `observe` reads the carried latent and the previous action; a memoryless family says no."""
        return True

    @property
    def loss_keys(self) -> tuple[NestedKey, ...]:
        """What `compute_loss` cannot do without; a family that learns without rewards says so."""
        return (*self.observation_keys, *self.previous_action_keys, self.key_map.reward)

    @contextmanager
    def drawing_from(self, seed: int) -> Iterator[None]:
        """Within, the verbs draw from a generator of their own; `noise` is as before afterwards."""
        kept, device = self.noise, self.action_space.center.device
        self.noise = GeneratorNoise(torch.Generator(device).manual_seed(seed))
        try:
            yield
        finally:
            self.noise = kept

    @property
    def learned_discount(self) -> float:
        """γ where a predicted continuation holds it too, so that an episode goes on with continuation / γ; else 1."""
        return 1.0

    def action_mask(self, latent: Latent) -> Tensor | None:
        """[..., A] with 1 for the flat action dimensions that the latent's task uses; None where all are used."""
        return None

    def initial_latent(self, batch: torch.Size | tuple[int, ...] = ()) -> Latent:
        """The latent before any observation: zeros, unless the family says otherwise."""
        return {
            name: torch.zeros((*batch, *leaf.shape), dtype=leaf.dtype, device=self.action_space.center.device)
            for name, leaf in self.latent_spec.items()
        }

    def continuation(self, latent: Latent) -> Tensor:
        """[..., 1] probability that the episode goes on at a latent: what `decode_latent` says, else ones.

        A family whose `decode_latent` is dear (images) overrides it; imagination asks it once, for its start.
        """
        decoded = self.decode_latent(latent).get(self.key_map.continuation)
        if decoded is not None:
            return decoded
        name, leaf = next(iter(self.latent_spec.items()))
        batch = latent[name].shape[: latent[name].dim() - len(leaf.shape)]
        return torch.ones(*batch, 1, dtype=precise(self.dtype), device=latent[name].device)

    def predict_branches(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        """Predictions [B, N] of flat actions [B, N, A] that all start from their row's latent [B, …].

        A family overrides it where it can compute the latent's part once; the numbers are `predict_latent`'s, rounded
        otherwise.
        """
        return self.predict_latent(repeat_latent(latent, action.shape[-2]), action, noise)

    def observe_sequence(
        self, carry: Latent, previous_action: Tensor, observation: Observation, is_init: Tensor, noise: Noise
    ) -> Latent:
        """Posterior latents [*B, T, …] of a sequence, equal to T single steps under the same noise.

        Args:
            carry: latent [*B, …] of the row before the first.
            previous_action: [*B, T, A]; observation leaves [*B, T, …]; is_init: [*B, T, 1].
        """
        time = is_init.dim() - 2
        latents: list[Latent] = []
        for t in range(is_init.shape[time]):
            row = {key: value.select(time, t) for key, value in observation.items()}
            carry = self.filter_latent(carry, previous_action.select(time, t), row, is_init.select(time, t), noise)
            latents.append(carry)
        return {name: torch.stack([latent[name] for latent in latents], time) for name in carry}

    # ------------------------------------------------------------------ keys, reading and writing

    @property
    def action_keys(self) -> tuple[NestedKey, ...]:
        """The action keys, in the order of the flat action."""
        return self.action_space.keys

    @property
    def previous_action_keys(self) -> tuple[NestedKey, ...]:
        """Where the previous action stands, key by key as `action_keys`."""
        return self.key_map.previous_actions(self.action_keys)

    @property
    def latent_keys(self) -> tuple[NestedKey, ...]:
        """The keys of the latent's leaves."""
        return tuple(self.key_map.leaf(name) for name in self.latent_spec.keys())  # noqa: SIM118 (a spec is no mapping)

    def read(self, td: TensorDictBase, key: NestedKey) -> Tensor:
        """The tensordict's value. Raises KeyError naming the key and what there is instead."""
        value: Tensor | None = td.get(key, None)
        if value is None:
            present = sorted(map(str, td.keys(include_nested=True, leaves_only=True)))
            raise KeyError(f"{type(self).__name__} needs the key {key!r}, but the tensordict holds {present}.")
        return value

    def read_latent(self, td: TensorDictBase) -> Latent:
        """The latent's leaves from a tensordict, in `dtype`. Raises KeyError naming the missing leaf."""
        latent = {name: self.read(td, self.key_map.leaf(name)) for name in self.latent_spec.keys()}  # noqa: SIM118
        return {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in latent.items()}

    def write_latent(self, td: TensorDictBase, latent: Latent) -> TensorDictBase:
        """The tensordict with the latent's leaves written to it."""
        for name, value in latent.items():
            td.set(self.key_map.leaf(name), value)
        return td

    def read_observation(self, td: TensorDictBase) -> Observation:
        """The observation leaves from a tensordict. Raises KeyError naming the missing one."""
        return {key: self.read(td, key) for key in self.observation_keys}

    def read_action(self, td: TensorDictBase) -> Tensor:
        """[..., A] the flat action of the tensordict's action keys."""
        return self.action_space.flatten({key: self.read(td, key) for key in self.action_keys})

    def read_previous_action(self, td: TensorDictBase) -> Tensor:
        """[..., A] the flat previous action."""
        keys = zip(self.action_keys, self.previous_action_keys, strict=True)
        return self.action_space.flatten({key: self.read(td, previous) for key, previous in keys})

    def write_action(self, td: TensorDictBase, flat: Tensor) -> TensorDictBase:
        """The tensordict with the flat action written to the action keys as the environment takes them."""
        for key, value in self.action_space.unflatten(flat).items():
            td.set(key, value)
        return td


# TorchRL's losses and value estimators map networks over weights and rows; a model in them draws for each its own.
add_random_module(TensorCore)
