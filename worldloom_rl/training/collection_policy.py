"""What acts while data is collected for a model that learns without rewards: random actions, or a given policy."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase
from torchrl.modules import RandomPolicy

from worldloom_rl.training.evaluate import with_primers


class CollectionPolicy(ABC):
    """A policy of whatever environment there is. `str` of it is its name.

    Attributes:
        carries: whether it may carry something from step to step, which an environment makes place for.
    """

    carries: bool

    @abstractmethod
    def make(self, env: EnvBase) -> TensorDictModuleBase | RandomPolicy:
        """What acts in the environment."""

    def prepare(self, env: EnvBase) -> tuple[EnvBase, TensorDictModuleBase | RandomPolicy]:
        """The environment with place for what the policy carries, and the policy."""
        policy = self.make(env)
        return (with_primers(env, policy) if isinstance(policy, nn.Module) else env), policy


@dataclass(frozen=True)
class RandomActions(CollectionPolicy):
    """Uniform draws from the action's specification."""

    carries = False

    def make(self, env: EnvBase) -> RandomPolicy:
        return RandomPolicy(env.full_action_spec)

    def __str__(self) -> str:
        return _RANDOM


@dataclass(frozen=True)
class GivenPolicy(CollectionPolicy):
    """What the function of a module, "module:function", makes of the environment."""

    name: str
    carries = True

    def make(self, env: EnvBase) -> TensorDictModuleBase:
        """Raises ValueError if there is no such function."""
        module, _, function = self.name.partition(":")
        try:
            make: Callable[[EnvBase], TensorDictModuleBase] = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f'policy must be "{_RANDOM}" or "module:function", whose function makes a TorchRL policy of the '
                f"environment; {self.name!r} is not: {error}."
            ) from error
        return make(env)

    def __str__(self) -> str:
        return self.name


_RANDOM = "random"


def collection_policy(name: str) -> CollectionPolicy:
    """The policy that a person names: "random", or "module:function"."""
    return RandomActions() if name == _RANDOM else GivenPolicy(name)
