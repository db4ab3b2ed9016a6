"""The world model: six verbs over tensordicts, each a thin shell around one tensor function.

A family subclasses `WorldModel` and writes the tensor core; the verbs, the specs and saving come from here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs import TensorDictPrimer
from torchrl.modules import recurrent_mode

from worldloom_rl.config import Json, WorldModelConfig
from worldloom_rl.keys import DONE, POLICY_ACTION, TERMINATED, KeyMap, as_tuple
from worldloom_rl.noise import GeneratorNoise, Noise
from worldloom_rl.pretrained.format import load_world_model, save_world_model
from worldloom_rl.pretrained.hub import push_world_model
from worldloom_rl.specs.actions import ActionSpace

Latent = dict[str, Tensor]  # leaf name → tensor [*batch, *leaf shape]
Observation = dict[NestedKey, Tensor]
RewardFunction = Callable[[Latent, Latent], Tensor]  # latents before and after a step → [..., 1]


class Prediction(NamedTuple):
    """An imagined step: the latent arrived at, the reward [..., 1] of arriving, the probability [..., 1] of more."""

    latent: Latent
    reward: Tensor
    continuation: Tensor


class Imagined(NamedTuple):
    """Imagined steps as an actor-critic learns from them; time comes first."""

    features: Tensor  # [1 + H, *B, F] of the start and of all latents arrived at
    action: Tensor  # [H, *B, A] flat, as drawn
    reward: Tensor  # [H, *B, 1] of arriving
    continuation: Tensor  # [1 + H, *B, 1]


def repeat_latent(latent: Latent, count: int) -> Latent:
    """Leaves [B, …] → [B, count, …] without copying."""
    return {name: value.unsqueeze(1).expand(-1, count, *(-1,) * (value.dim() - 1)) for name, value in latent.items()}


class WorldModel(TensorDictModuleBase, ABC):  # type: ignore[misc]
    """A latent world model over TensorDicts; `model(td)` is `observe`.

    Args:
        config: the family's frozen dataclass.
        observation_spec: un-batched Composite; its leaves are what `encode` and `observe` read.
        action_spec: un-batched Composite; one or several action keys.
        key_map: other names for the keys of the contract, such as {"reward": ("my", "reward")}.

    Attributes:
        action_space: the flat view of the actions, which the tensor core works with.
        latent_spec: Composite of the latent's leaves by name, un-batched.
        noise: source of the verbs' random draws; replace it to seed or replay them.
    """

    model_type: ClassVar[str]
    observation_spec: Composite
    action_spec: Composite
    action_space: ActionSpace
    latent_spec: Composite

    def __init__(
        self,
        config: WorldModelConfig,
        observation_spec: Composite,
        action_spec: Composite,
        key_map: Mapping[str, NestedKey] | None = None,
    ) -> None:
        super().__init__()
        self.observation_spec = observation_spec
        self.action_spec = action_spec
        self.action_space = ActionSpace(action_spec)
        self.key_map = KeyMap.from_names(key_map or {})
        self.noise: Noise = GeneratorNoise()
        self.observation_keys: tuple[NestedKey, ...] = tuple(
            observation_spec.keys(include_nested=True, leaves_only=True)
        )

    # ------------------------------------------------------------------ the tensor core, written by a family

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

    def predict_branches(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        """Predictions [B, N] of flat actions [B, N, A] that all start from their row's latent [B, …].

        A family overrides it where it can compute the latent's part once; the numbers are `predict_latent`'s, rounded
        otherwise.
        """
        return self.predict_latent(repeat_latent(latent, action.shape[-2]), action, noise)

    def decode_latent(self, latent: Latent) -> dict[NestedKey, Tensor]:
        """What is a function of the latent alone, by the key it is written to: observations, reward, continue."""
        return {}

    @abstractmethod
    def latent_features(self, latent: Latent) -> Tensor:
        """[..., F] flat view of the latent for heads, with the task embedding where there is one."""

    @abstractmethod
    def discount(self, latent: Latent) -> Tensor:
        """γ, broadcastable against [..., 1]."""

    def action_mask(self, latent: Latent) -> Tensor | None:
        """[..., A] with 1 for the flat action dimensions that the latent's task uses; None where all are used."""
        return None

    @abstractmethod
    def compute_loss(
        self, batch: TensorDictBase, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], TensorDictBase]:
        """Unreduced loss terms by name, and the posterior (not detached), from [B, T] arrival rows."""

    @staticmethod
    @abstractmethod
    def default_specs() -> tuple[Composite, Composite]:
        """The observation and action specs that a preset is built for when none are given."""

    def continuation(self, latent: Latent) -> Tensor:
        """[..., 1] probability that the episode goes on at a latent: what `decode_latent` says, else ones.

        A family whose `decode_latent` is dear (images) overrides it; imagination asks it once, for its start.
        """
        decoded = self.decode_latent(latent).get(self.key_map.continuation)
        if decoded is not None:
            return decoded
        name, leaf = next(iter(self.latent_spec.items()))
        batch = latent[name].shape[: latent[name].dim() - len(leaf.shape)]
        return torch.ones(*batch, 1, device=latent[name].device)

    def initial_latent(self, batch: torch.Size | tuple[int, ...] = ()) -> Latent:
        """The latent before any observation: zeros, unless the family says otherwise."""
        return {
            name: torch.zeros((*batch, *leaf.shape), dtype=leaf.dtype, device=self.action_space.center.device)
            for name, leaf in self.latent_spec.items()
        }

    def step_modules(self) -> list[nn.Module]:
        """Modules over tensors that one step is made of; `training.compilation` compiles their forward in place."""
        return []

    # ------------------------------------------------------------------ keys

    @property
    def recurrent(self) -> bool:
        """Whether `observe` reads the carried latent and the previous action; a memoryless family overrides it."""
        return True

    @property
    def undescribed_modules(self) -> dict[str, nn.Module]:
        """Constructor arguments that the configuration does not describe: modules of the user's own, by name."""
        return {}

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

    @property
    def in_keys(self) -> list[NestedKey]:
        """What `observe` reads."""
        keys = list(self.observation_keys)
        if self.recurrent:
            keys += [*self.previous_action_keys, self.key_map.is_init, *self.latent_keys]
        return keys

    @property
    def out_keys(self) -> list[NestedKey]:
        """What `observe` writes."""
        return list(self.latent_keys)

    @property
    def loss_keys(self) -> tuple[NestedKey, ...]:
        """What `compute_loss` cannot do without; a family that learns without rewards overrides it."""
        return (*self.observation_keys, *self.previous_action_keys, self.key_map.reward)

    def read_latent(self, td: TensorDictBase) -> Latent:
        """The latent's leaves from a tensordict. Raises KeyError naming the missing leaf."""
        return {name: _get(td, self.key_map.leaf(name), self) for name in self.latent_spec.keys()}  # noqa: SIM118

    def write_latent(self, td: TensorDictBase, latent: Latent) -> TensorDictBase:
        """The tensordict with the latent's leaves written to it."""
        for name, value in latent.items():
            td.set(self.key_map.leaf(name), value)
        return td

    def read_observation(self, td: TensorDictBase) -> Observation:
        """The observation leaves from a tensordict. Raises KeyError naming the missing one."""
        return {key: _get(td, key, self) for key in self.observation_keys}

    def read_action(self, td: TensorDictBase) -> Tensor:
        """[..., A] the flat action of the tensordict's action keys."""
        return self.action_space.flatten({key: _get(td, key, self) for key in self.action_keys})

    def read_previous_action(self, td: TensorDictBase) -> Tensor:
        """[..., A] the flat previous action."""
        keys = zip(self.action_keys, self.previous_action_keys, strict=True)
        return self.action_space.flatten({key: _get(td, previous, self) for key, previous in keys})

    def write_action(self, td: TensorDictBase, flat: Tensor) -> TensorDictBase:
        """The tensordict with the flat action written to the action keys as the environment takes them."""
        for key, value in self.action_space.unflatten(flat).items():
            td.set(key, value)
        return td

    # ------------------------------------------------------------------ the verbs

    @property
    def encode(self) -> Verb:
        """Latent of an observation alone (for a recurrent model: one filter step from the initial latent)."""
        return Encode(self)

    @property
    def observe(self) -> Verb:
        """Posterior latent of this row. Under TorchRL's `set_recurrent_mode(True)` the last batch dimension is time."""
        return Observe(self) if self.recurrent else ObserveAlone(self)

    @property
    def carry_action(self) -> Verb:
        """The last step of an acting recurrent policy: hands the action on as the next row's previous action."""
        return CarryAction(self)

    @property
    def predict(self) -> Verb:
        """One step without observation: the next latent, the reward of arriving there, the probability of going on."""
        return Predict(self)

    @property
    def decode(self) -> Verb:
        """What is a function of the latent alone."""
        return Decode(self)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self.observe(tensordict)

    def features(self, tensordict: TensorDictBase) -> Tensor:
        """[..., F] flat view of the tensordict's latent for heads."""
        return self.latent_features(self.read_latent(tensordict))

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

    # ------------------------------------------------------------------ imagination

    def imagine(
        self,
        start: TensorDictBase,
        policy: TensorDictModuleBase | None = None,
        *,
        actions: Tensor | TensorDictBase | None = None,
        horizon: int | None = None,
        noise: Noise | None = None,
    ) -> TensorDict:
        """H imagined steps from start latents: the TensorDict [*B, H] of `ImaginationEnv(self).rollout(H, policy, …)`.

        At the root stand the latent and "continue" before each step, the action, the done flags (False) and, unchanged
        or as the policy carries them, the other entries of `start`; under "next" the latent, reward, "continue" and
        done flags after it. Root and "next" latents share memory. `start` is not written to, and gradients flow.

        Args:
            start: [*B] holds the latent.
            policy: reads the root, writes the action. A `LatentPolicy` is called on tensors, any other on a tensordict.
            actions: instead of a policy, either flat actions [*B, H, A], or a tensordict [*B, H] of the action keys.
            horizon: H; given actions bring their own.
            noise: source of random draws, in the order policy, prediction of every step; by default the model's.
        Raises ValueError for a horizon below 1, for neither or both of policy and actions, or for actions that do not
        fit; KeyError for a latent leaf or action key that is missing.
        """
        if (policy is None) == (actions is None):
            given = "neither" if policy is None else "both"
            raise ValueError(f"imagine follows either a policy or given actions; {given} was given.")
        written = None if actions is None else self._given_actions(actions, start.batch_size, horizon)
        if written is not None:
            horizon = next(iter(written.values())).shape[start.batch_dims]
        if horizon is None or horizon < 1:
            raise ValueError(f"imagine needs a horizon of at least 1 step, got {horizon}.")
        noise = self.noise if noise is None else noise
        latent = self.read_latent(start)
        if written is None and not (isinstance(policy, LatentPolicy) and type(policy).forward is LatentPolicy.forward):
            assert policy is not None
            return self._imagine_with_module(start, policy, horizon, noise)

        time = start.batch_dims
        flat_actions = None if written is None else self.action_space.flatten(written)
        latents, continuations = [latent], [self.continuation(latent)]
        rewards: list[Tensor] = []
        drawn: list[Tensor] = []
        chosen: list[dict[NestedKey, Tensor]] = []
        for t in range(horizon):
            if flat_actions is None:
                assert isinstance(policy, LatentPolicy)
                # What the environment would be given, and back: bounds and dtypes count as in a rollout.
                drawn.append(policy.act(latent, noise))
                chosen.append(self.action_space.unflatten(drawn[-1]))
                action = self.action_space.flatten(chosen[-1])
            else:
                action = flat_actions.select(time, t)
            latent, reward, continuation = self.predict_latent(latent, action, noise)
            latents.append(latent)
            rewards.append(reward)
            continuations.append(continuation)
        if written is None:
            written = {key: torch.stack([action[key] for action in chosen], time) for key in self.action_keys}
            written[POLICY_ACTION] = torch.stack(drawn, time)
        states = {self.key_map.leaf(name): torch.stack([row[name] for row in latents], time) for name in latent}
        states[self.key_map.continuation] = torch.stack(continuations, time)
        reward = torch.stack(rewards, time)

        packed: TensorDict = self._carried(start).unsqueeze(time).expand(*start.batch_size, horizon)
        for prefix, first in (((), 0), (("next",), 1)):
            for key, value in states.items():
                packed.set((*prefix, *as_tuple(key)), value.narrow(time, first, horizon))
            for flag in (DONE, TERMINATED):
                packed.set((*prefix, flag), torch.zeros_like(reward, dtype=torch.bool))
        packed.set(("next", *as_tuple(self.key_map.reward)), reward)
        for key, value in written.items():
            packed.set(key, value)
        packed.names = [*start.names, "time"]
        return packed

    @torch.no_grad()
    def imagine_features(
        self, start: Latent, act: Callable[[Tensor, Noise], Tensor], horizon: int, noise: Noise
    ) -> Imagined:
        """What an actor-critic learns from in the steps of `imagine`, with the same draws and without gradient.

        A family whose reward and continuation are functions of the latent alone can ask them once for all steps.

        Args:
            start: latent [*B, …].
            act: [*B, A] flat actions from features [*B, F] and noise.
        """
        latent = start
        features, continuations = [self.latent_features(latent)], [self.continuation(latent)]
        actions: list[Tensor] = []
        rewards: list[Tensor] = []
        for _ in range(horizon):
            actions.append(act(features[-1], noise))
            latent, reward, continuation = self.predict_latent(latent, self.action_space.bounded(actions[-1]), noise)
            features.append(self.latent_features(latent))
            rewards.append(reward)
            continuations.append(continuation)
        return Imagined(*(torch.stack(rows) for rows in (features, actions, rewards, continuations)))

    def _given_actions(
        self, actions: Tensor | TensorDictBase, batch: torch.Size, horizon: int | None
    ) -> dict[NestedKey, Tensor]:
        """Given actions [*B, H, …] by key as the environment takes them. Raises ValueError where they do not fit."""
        steps = actions.shape[len(batch)] if len(actions.shape) > len(batch) else 0
        shape: tuple[int, ...] = (*batch, steps)
        if isinstance(actions, Tensor):
            shape = (*shape, self.action_space.width)
        if tuple(actions.shape[: len(shape)]) != shape or (isinstance(actions, Tensor) and actions.dim() != len(shape)):
            wanted = (*batch, "H", *shape[len(batch) + 1 :])
            raise ValueError(f"Given actions must have shape {wanted}, got {tuple(actions.shape)}.")
        if steps < 1 or horizon not in (None, steps):
            raise ValueError(f"Actions for {steps} steps were given with horizon={horizon}; leave the horizon out.")
        if isinstance(actions, Tensor):
            return self.action_space.unflatten(actions)
        return {key: _get(actions, key, self) for key in self.action_keys}

    def _carried(self, start: TensorDictBase) -> TensorDictBase:
        """What a step leaves as it is, for writing the step's results to: all but the reward and "next"."""
        return start.exclude(self.key_map.reward, "next", "_reset").copy()

    def _imagine_with_module(
        self, start: TensorDictBase, policy: TensorDictModuleBase, horizon: int, noise: Noise
    ) -> TensorDict:
        """`imagine` with a policy that reads and writes tensordicts; what it writes at the root is carried along."""
        names = self.key_map
        latent = self.read_latent(start)
        continuation = self.continuation(latent)
        flag = torch.zeros_like(continuation, dtype=torch.bool)
        empty = TensorDict({DONE: flag, TERMINATED: flag}, batch_size=start.batch_size, device=start.device)
        state = self.write_latent(empty.copy(), latent).set(names.continuation, continuation)
        row, rows = start, []
        for _ in range(horizon):
            row = self._carried(row).update(state)
            row.update(policy(row))
            prediction = self.predict_latent(self.read_latent(row), self.read_action(row), noise)
            state = self.write_latent(empty.copy(), prediction.latent).set(names.continuation, prediction.continuation)
            arrived = state.copy().set(names.reward, prediction.reward)
            others = row.get("next", None)
            if others is not None:
                arrived.update(others.exclude(*arrived.keys(True, True)))
            rows.append(row.set("next", arrived))
        packed: TensorDict = TensorDict.stack(rows, start.batch_dims)
        packed.names = [*start.names, "time"]
        return packed

    # ------------------------------------------------------------------ sizes, saving

    def num_parameters(self) -> int:
        """How many numbers are learned; target copies, which follow others, are not counted."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors; the directory appears whole or not at all."""
        save_world_model(self, directory)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        result: Mapping[str, Json] | None = None,
    ) -> str:
        """The hash of the commit that holds the model on the hub, with a model card (README.md) written anew.

        Args:
            repo_id: "organization/name"; made if there is none.
            private: whether a new repository is; None leaves it to the organization.
            token: by default the one of `hf auth login` or of HF_TOKEN.
            revision: branch to push to, made if there is none; by default the main branch.
            result: contents of a run's result.json; the card then tells the return reached and how it was trained.
        Raises ValueError for a malformed name or result; PermissionError, ConnectionError for what the hub refuses.
        """
        return push_world_model(
            self,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
            result=result,
        )

    @classmethod
    def from_pretrained(cls, directory: str | Path, *, encoder: nn.Module | None = None) -> WorldModel:
        """The model in a directory. Raises TypeError if it is of another family; see `AutoWorldModel` otherwise.

        Args:
            encoder: the module that a model with a frozen encoder of your own was built with.
        """
        model = load_world_model(directory, encoder)
        if not isinstance(model, cls):
            raise TypeError(f"{directory} holds a {type(model).__name__}, not a {cls.__name__}; use AutoWorldModel.")
        return model


class Verb(TensorDictModuleBase):  # type: ignore[misc]
    """A verb as a step of a TensorDictSequential; it registers the model, so its weights are found once."""

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model


class Encode(Verb):
    """See `WorldModel.encode`."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model)
        self.in_keys = list(model.observation_keys)
        self.out_keys = list(model.latent_keys)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        latent = self.model.encode_latent(self.model.read_observation(tensordict), self.model.noise)
        return self.model.write_latent(tensordict, latent)


class ObserveAlone(Verb):
    """`WorldModel.observe` of a memoryless model: every row on its own."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model)
        self.in_keys = model.in_keys
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

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model)
        self.in_keys = model.in_keys
        self._carried: list[NestedKey] = [("next", *as_tuple(key)) for key in model.latent_keys]
        self.out_keys = [*model.latent_keys, *self._carried]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        model = self.model
        observation = model.read_observation(tensordict)
        previous_action = model.read_previous_action(tensordict)
        is_init = _get(tensordict, model.key_map.is_init, model)
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

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model)
        self.in_keys = list(model.action_keys)
        self.out_keys = [("next", *as_tuple(key)) for key in model.previous_action_keys]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        for key, carried in zip(self.in_keys, self.out_keys, strict=True):
            tensordict.set(carried, _get(tensordict, key, self.model))
        return tensordict

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that gives an environment a place for the previous action."""
        segments = zip(self.model.previous_action_keys, self.model.action_space.segments, strict=True)
        return _zero_primer({as_tuple(key): Unbounded(part.shape, dtype=part.dtype) for key, part in segments})


class Predict(Verb):
    """See `WorldModel.predict`."""

    def __init__(self, model: WorldModel) -> None:
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

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model)
        self.in_keys = list(model.latent_keys)
        with torch.no_grad():
            self.out_keys = list(model.decode_latent(model.initial_latent()))

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        for key, value in self.model.decode_latent(self.model.read_latent(tensordict)).items():
            tensordict.set(key, value)
        return tensordict


class LatentPolicy(TensorDictModuleBase, ABC):  # type: ignore[misc]
    """A policy that reads the latent and writes the action: a shell around `act`, which fused loops call directly.

    The flat action stands beside it as it was drawn, for losses that ask how likely that was.
    """

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model
        self.in_keys = list(model.latent_keys)
        self.out_keys = [*model.action_keys, POLICY_ACTION]

    @abstractmethod
    def act(self, latent: Latent, noise: Noise) -> Tensor:
        """[..., A] flat action."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = self.act(self.model.read_latent(tensordict), self.model.noise)
        return self.model.write_action(tensordict, action).set(POLICY_ACTION, action)


def _zero_primer(leaves: Mapping[tuple[str, ...], TensorSpec]) -> TensorDictPrimer:
    """A primer of zeros; `expand_specs` makes it fit environments with a batch."""
    spec = Composite()
    for key, leaf in leaves.items():
        spec[key] = leaf
    return TensorDictPrimer(spec, default_value=0, expand_specs=True)


def _get(td: TensorDictBase, key: NestedKey, model: WorldModel) -> Tensor:
    value: Tensor | None = td.get(key, None)
    if value is None:
        present = sorted(map(str, td.keys(include_nested=True, leaves_only=True)))
        raise KeyError(f"{type(model).__name__} needs the key {key!r}, but the tensordict holds {present}.")
    return value
