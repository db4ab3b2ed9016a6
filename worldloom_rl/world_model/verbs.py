"""The verbs over tensordicts: each a thin shell around one tensor function of the core, and a step of a policy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs import TensorDictPrimer
from torchrl.modules import recurrent_mode

from worldloom_rl.keys import as_tuple
from worldloom_rl.noise import Noise
from worldloom_rl.world_model.core import Latent, TensorCore


class Verb(TensorDictModuleBase):  # type: ignore[misc]
    """A verb as a step of a TensorDictSequential; it registers the model, so its weights are found once."""

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]

    def __init__(self, model: TensorCore) -> None:
        super().__init__()
        self.model = model


class Encode(Verb):
    """See `WorldModel.encode`."""

    def __init__(self, model: TensorCore) -> None:
        super().__init__(model)
        self.in_keys = list(model.observation_keys)
        self.out_keys = list(model.latent_keys)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        latent = self.model.encode_latent(self.model.read_observation(tensordict), self.model.noise)
        return self.model.write_latent(tensordict, latent)


class ObserveAlone(Verb):
    """`WorldModel.observe` of a memoryless model: every row on its own."""

    def __init__(self, model: TensorCore) -> None:
        super().__init__(model)
        self.in_keys = list(model.observation_keys)
        self.out_keys = list(model.latent_keys)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        model = self.model
        observation = model.read_observation(tensordict)
        if not recurrent_mode():
            return model.write_latent(tensordict, model.encode_latent(observation, model.noise))
        time = tensordict.batch_dims - 1
        steps = range(tensordict.shape[time])
        rows = [{key: value.select(time, t) for key, value in observation.items()} for t in steps]
        latents = [model.encode_latent(row, model.noise) for row in rows]  # draws come per time step
        stacked = {name: torch.stack([latent[name] for latent in latents], time) for name in latents[0]}
        return model.write_latent(tensordict, stacked)


class Observe(Verb):
    """`WorldModel.observe` of a recurrent model."""

    def __init__(self, model: TensorCore) -> None:
        super().__init__(model)
        self.in_keys = [
            *model.observation_keys, *model.previous_action_keys, model.key_map.is_init, *model.latent_keys
        ]  # fmt: skip
        self._carried: list[NestedKey] = [("next", *as_tuple(key)) for key in model.latent_keys]
        self.out_keys = [*model.latent_keys, *self._carried]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        model = self.model
        observation = model.read_observation(tensordict)
        previous_action = model.read_previous_action(tensordict)
        is_init = model.read(tensordict, model.key_map.is_init)
        carry = model.read_latent(tensordict)
        if recurrent_mode():
            carry = {name: value[(slice(None),) * (is_init.dim() - 2) + (0,)] for name, value in carry.items()}
            latent = model.observe_sequence(carry, previous_action, observation, is_init, model.noise)
            return model.write_latent(tensordict, latent)
        latent = model.filter_latent(carry, previous_action, observation, is_init, model.noise)
        model.write_latent(tensordict, latent)
        for carried, value in zip(self._carried, latent.values(), strict=True):
            tensordict.set(carried, value)  # the same value under "next": carried to the following step
        return tensordict

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that gives an environment a place for the carried latent."""
        leaves = zip(self.model.latent_keys, self.model.latent_spec.values(), strict=True)
        return _zero_primer({as_tuple(key): Unbounded(leaf.shape, dtype=leaf.dtype) for key, leaf in leaves})


class CarryAction(Verb):
    """See `WorldModel.carry_action`."""

    def __init__(self, model: TensorCore) -> None:
        super().__init__(model)
        self.in_keys = list(model.action_keys)
        self.out_keys = [("next", *as_tuple(key)) for key in model.previous_action_keys]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        for key, carried in zip(self.in_keys, self.out_keys, strict=True):
            tensordict.set(carried, self.model.read(tensordict, key))
        return tensordict

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that gives an environment a place for the previous action."""
        segments = zip(self.model.previous_action_keys, self.model.action_space.segments, strict=True)
        return _zero_primer({as_tuple(key): Unbounded(part.shape, dtype=part.dtype) for key, part in segments})


class Predict(Verb):
    """See `WorldModel.predict`."""

    def __init__(self, model: TensorCore) -> None:
        super().__init__(model)
        self.in_keys = [*model.latent_keys, *model.action_keys]
        self.out_keys = [*model.latent_keys, model.key_map.reward, model.key_map.continuation]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        model = self.model
        prediction = model.predict_latent(model.read_latent(tensordict), model.read_action(tensordict), model.noise)
        model.write_latent(tensordict, prediction.latent)
        tensordict.set(model.key_map.reward, prediction.reward)
        return tensordict.set(model.key_map.continuation, prediction.continuation)


class Decode(Verb):
    """See `WorldModel.decode`."""

    def __init__(self, model: TensorCore) -> None:
        super().__init__(model)
        self.in_keys = list(model.latent_keys)
        self.out_keys = list(model.decoded_keys)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        for key, value in self.model.decode_latent(self.model.read_latent(tensordict)).items():
            tensordict.set(key, value)
        return tensordict


def _zero_primer(leaves: Mapping[tuple[str, ...], TensorSpec]) -> TensorDictPrimer:
    """A primer of zeros; `expand_specs` makes it fit environments with a batch."""
    spec = Composite()
    for key, leaf in leaves.items():
        spec[key] = leaf
    return TensorDictPrimer(spec, default_value=0, expand_specs=True)


def observed_latents(model: TensorCore, rows: TensorDictBase, noise: Noise) -> Latent:
    """The latents [B, T, …] of arrival rows [B, T], each after its observation; streams begin without a past."""
    is_init, observation = rows[model.key_map.is_init], model.read_observation(rows)
    start = model.initial_latent(is_init.shape[:1])
    return model.observe_sequence(start, model.read_previous_action(rows), observation, is_init, noise)
