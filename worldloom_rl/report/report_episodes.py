"""New episodes to judge a model by: some as its agent plays them, some disturbed by random actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDictBase, pad_sequence
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl.data import Arrivals
from worldloom_rl.keys import PREVIOUS_ACTION, STREAM
from worldloom_rl.training.evaluate import with_primers
from worldloom_rl.world_model import Latent, WorldModel

_AT_RANDOM, _POLICY, _VALID = ("replay", "at_random"), ("replay", "policy"), ("replay", "valid")


@dataclass(frozen=True)
class Episodes:
    """Arrival rows [E, L] of E environments, episode after episode; padding rows stand at the end.

    Attributes:
        valid: [E, L] whether a row is none of the padding, every row of which has "is_init" set.
        policy: [E, L] which of `policies` chose the action that led to a row; −1 for a random one.
        policies: what each is called.
        planner: which of them asks the model's parts what to do, so that a fault of one shows in all that it does;
            −1 if none does.
    """

    rows: TensorDictBase
    valid: Tensor
    policy: Tensor
    policies: tuple[str, ...]
    planner: int = -1

    @classmethod
    def beside_each_other(
        cls, streams: Mapping[str, Sequence[TensorDictBase]], is_init: NestedKey, planner: str | None = None
    ) -> Episodes:
        """Streams of rows [L] by policy, each with `_AT_RANDOM` [L], padded to one length."""
        marked = []
        for number, of_policy in enumerate(streams.values()):
            for stream in of_policy:
                policy = torch.full((len(stream),), number).masked_fill(stream[_AT_RANDOM], -1)
                valid = torch.ones(len(stream), dtype=torch.bool)
                marked.append(stream.exclude(_AT_RANDOM).set(_POLICY, policy).set(_VALID, valid))
        rows = pad_sequence(marked)
        rows[is_init] |= ~rows[_VALID].unsqueeze(-1)
        names = tuple(streams)
        number = -1 if planner is None else names.index(planner)
        return cls(rows.exclude(_VALID, _POLICY), rows[_VALID], rows[_POLICY], names, number)

    def to(self, device: torch.device | str) -> Episodes:
        """The same on another device."""
        tensors = (self.rows.to(device), self.valid.to(device), self.policy.to(device))
        return Episodes(*tensors, self.policies, self.planner)


def at_places(latent: Latent, place: Tensor) -> Latent:
    """Of latents [E, L, …] those at places of the flat order."""
    return {name: leaf.flatten(0, 1)[place] for name, leaf in latent.items()}


class RandomSteps(TensorDictModuleBase):  # type: ignore[misc]
    """A policy whose first actions of every episode are replaced by random ones; it writes `_AT_RANDOM` beside them.

    Args:
        model: whose actions they are; a recurrent one is told of the replaced action.
        policy: reads the root, writes the actions.
        steps: [E] how many actions of an episode are random, for each of E environments.
    """

    def __init__(self, model: WorldModel, policy: TensorDictModuleBase, steps: Tensor) -> None:
        super().__init__()
        self.model, self.policy, self.steps = model, policy, steps
        self.age = torch.zeros_like(steps)
        self.in_keys = [*policy.in_keys, model.key_map.is_init]
        self.out_keys = [*policy.out_keys, _AT_RANDOM]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        is_init = tensordict[self.model.key_map.is_init]
        self.age = torch.where(is_init.reshape(-1).cpu(), torch.zeros_like(self.age), self.age + 1)
        at_random = (self.age < self.steps).reshape(is_init.shape).to(is_init.device)
        tensordict = self.policy(tensordict)
        drawn = self.model.action_spec.rand(tensordict.batch_size)
        for key in self.model.action_keys:
            given, random = tensordict[key], drawn[key].to(is_init.device)
            chosen = at_random.reshape(*tensordict.batch_size, *(1,) * (given.dim() - tensordict.batch_dims))
            tensordict.set(key, torch.where(chosen, random, given))
        if self.model.recurrent:
            tensordict = self.model.carry_action(tensordict)
        return tensordict.set(_AT_RANDOM, at_random)


@torch.no_grad()
def play_streams(
    model: WorldModel,
    env: EnvBase,
    policy: TensorDictModuleBase,
    *,
    steps: int,
    random_steps: Tensor,
) -> list[TensorDictBase]:
    """Rows [L] of each of E environments, played for `steps` agent steps without exploration noise.

    `_AT_RANDOM` [L] stands beside them: whether the action that led to a row was drawn at random.

    Args:
        env: batch [E], or [] if E is 1; closed at the end.
        random_steps: [E] how many actions of each episode are random before the policy plays on.
    """
    env = with_primers(env, policy)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        disturbed = RandomSteps(model, policy, random_steps)
        transitions = env.rollout(steps, disturbed, break_when_any_done=False, auto_cast_to_device=True)
    env.close()
    rows = Arrivals(model.observation_keys, model.action_keys)(transitions).rows
    at_random = Arrivals(model.observation_keys[:1], (_AT_RANDOM,))(transitions).rows[PREVIOUS_ACTION]
    rows[_AT_RANDOM] = at_random.reshape(-1)
    return list(rows.exclude(STREAM).split(rows[STREAM].bincount().tolist()))
