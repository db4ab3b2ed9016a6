"""The key contract: every name a world model, an actor, a planner or the replay reads or writes.

Shapes are those after the batch dimensions. Everything stands at the root of a tensordict; only environments,
carried policy outputs and `data.arrivals` know "next".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensordict import NestedKey

LATENT = "latent"  # the subtree that actors, critics, environments and planners move whole
# Its leaves have the names of the family's `latent_spec`, such as ("latent", "deterministic").

GOAL = "goal"  # observations of what is to be reached, under the names of the observations: ("goal", "pixels")
ACTION = "action"
PREVIOUS_ACTION = "previous_action"  # the action that led to this observation
REWARD = "reward"  # [1]  received on arriving here
CONTINUE = "continue"  # [1]  probability that the episode goes on
IS_INIT = "is_init"  # [1]  bool, first row of an episode
TERMINATED = "terminated"  # [1]  bool, the episode ended in a terminal state
TRUNCATED = "truncated"  # [1]  bool, the episode was cut, for example by a time limit
DONE = "done"  # [1]  bool, terminated or truncated
POLICY_ACTION = ("policy", "action")  # [A]  flat action as a policy drew it, before the environment's bounds cut it
LAMBDA_RETURN = "lambda_return"  # [H]  of imagined steps
PLANNER_MEAN = ("planner", "mean")  # [H, A]  warm start of the next plan
PLANNER_ELITES = ("planner", "elites")  # [S, H, A]  best sequences of the last plan, that the next one begins with
PLANNER_SEQUENCE = ("planner", "sequence")  # [E, A]  flat actions of the last plan, executed one after the other
PLANNER_LEFT = ("planner", "left")  # [1]  int64, how many of them are still to be executed
STREAM = ("replay", "stream")  # []  int64, which environment a replay row comes from; stored with it, not sampled
INDEX = ("replay", "index")  # []  int64, a sampled row's slot
GENERATION = ("replay", "generation")  # []  int64, how often the ring had gone round when the row was written

# Names at the root of a tensordict that no observation may have: ours, and those that TorchRL's collectors write.
RESERVED = frozenset(
    {LATENT, ACTION, PREVIOUS_ACTION, REWARD, CONTINUE, IS_INIT, TERMINATED, TRUNCATED, DONE, LAMBDA_RETURN}
    | {POLICY_ACTION[0], PLANNER_MEAN[0], STREAM[0], "next", "collector", "_reset"}
)


def as_tuple(key: NestedKey) -> tuple[str, ...]:
    """The key as a tuple of its parts: "a" → ("a",), ("a", ("b", "c")) → ("a", "b", "c")."""
    if isinstance(key, str):
        return (key,)
    if not isinstance(key, tuple):
        raise TypeError(f"A nested key is a string or a tuple of nested keys, got {key!r}.")
    return tuple(part for step in key for part in as_tuple(step))


def previous_action_keys(action_keys: Sequence[NestedKey]) -> tuple[NestedKey, ...]:
    """Where a replay row and the acting state keep the previous action.

    One action key is kept under "previous_action"; the keys of a composite action under ("previous_action", *key).
    """
    return KeyMap().previous_actions(action_keys)


@dataclass(frozen=True)
class KeyMap:
    """Where a model reads and writes, for users whose tensordicts have other names; every entry is a nested key."""

    latent: NestedKey = LATENT
    previous_action: NestedKey = PREVIOUS_ACTION
    reward: NestedKey = REWARD
    continuation: NestedKey = CONTINUE
    is_init: NestedKey = IS_INIT
    terminated: NestedKey = TERMINATED

    def leaf(self, name: str) -> tuple[str, ...]:
        """The key of the latent's leaf `name`."""
        return (*as_tuple(self.latent), name)

    def previous_actions(self, action_keys: Sequence[NestedKey]) -> tuple[NestedKey, ...]:
        """As `previous_action_keys`, under this map's name."""
        if len(action_keys) == 1:
            return (self.previous_action,)
        return tuple((*as_tuple(self.previous_action), *as_tuple(key)) for key in action_keys)

    def to_json(self) -> dict[str, list[str]]:
        """Each name with the parts of its key."""
        return {field.name: list(as_tuple(getattr(self, field.name))) for field in dataclasses.fields(self)}

    @classmethod
    def from_names(cls, names: Mapping[str, NestedKey]) -> KeyMap:
        """The map with these names replaced. Raises ValueError on a name that no model has."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(names) - known)
        if unknown:
            raise ValueError(f"A key map has the names {sorted(known)}, got {unknown}.")
        parts = {name: as_tuple(tuple(key) if isinstance(key, list) else key) for name, key in names.items()}
        return cls(**{name: key[0] if len(key) == 1 else key for name, key in parts.items()})
