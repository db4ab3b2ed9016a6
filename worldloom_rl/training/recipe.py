"""How a family learns, as the verbs that the loop calls, and the state of a run that these share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl.data import Arrivals
from worldloom_rl.data.window_sampler import NoWindow
from worldloom_rl.training.clock import AGENT_STEPS, Clock
from worldloom_rl.training.compilation import Gains
from worldloom_rl.training.evaluate import Evaluation, play, with_primers
from worldloom_rl.training.first_look import settled
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.profile import NO_PROFILE, NoProfile
from worldloom_rl.training.source import Saved, Source
from worldloom_rl.world_model import WorldModel

ConfigT = TypeVar("ConfigT", bound=RunConfig)
ModelT = TypeVar("ModelT", bound=WorldModel)


@dataclass(kw_only=True)
class RunState(Generic[ConfigT, ModelT]):
    """Model, rows and counters of a run; a recipe adds its losses and optimisers."""

    config: ConfigT
    model: ModelT
    source: Source
    learning_starts: int  # agent steps before the first update
    updates_per_step: float = 0.0  # updates that become due with an agent step
    agent_steps: int = 0
    updates: int = 0
    updates_due: float = 0.0
    training_seconds: float = 0.0
    evaluations: list[Evaluation] = field(default_factory=list)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    resumed: str = ""  # what a person is told of a state that was loaded
    profile: NoProfile = NO_PROFILE

    def sample(self) -> TensorDictBase:
        """A batch of windows [B, L] to learn from. Raises ValueError if all episodes are shorter than a window."""
        with self.profile.timing("sampling"):
            try:
                return self.source.sample()
            except NoWindow as error:
                raise ValueError(
                    f"The episodes of {self.config.task} are too short to learn from: {error} For example "
                    "--overrides horizon=1 (TD-MPC2) or history=1 (JEPA)."
                ) from error

    def close(self) -> None:
        """Closes environments and removes scratch files; at the end of whatever uses the state."""
        self.source.close()


StateT = TypeVar("StateT", bound=RunState)  # type: ignore[type-arg]  # of the recipe's own configuration and model


class Recipe(ABC, Generic[ConfigT, ModelT, StateT]):
    """How a family learns.

    Attributes:
        name: of the family, and on the command line.
        title: for people.
        config_class: what a run of it can be told.
        clock: what its steps are.
        pretrains: the updates that the steps before learning are due are made at once when learning begins.
        length_counts: why a run of it cannot become longer than it was told at first, as half a sentence; "" if it can.
        together: whether several processes can learn by it together; each recipe says it for itself, none inherits it.
        gains: what compiling the model is known to win; a run that was not told compiles by it, see `compiling`.
        shown: metrics that the live line shows, by the name that it gives them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config_class: type[ConfigT]
    clock: ClassVar[Clock] = AGENT_STEPS
    pretrains: ClassVar[bool] = False
    length_counts: ClassVar[str] = ""
    together: ClassVar[bool] = False
    gains: ClassVar[Gains] = Gains()
    shown: ClassVar[Mapping[str, str]] = {"loss": "loss"}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.together = vars(cls).get("together", False)

    def settle(self, config: ConfigT) -> ConfigT:
        """The configuration with what a run finds out itself before it begins, where it was not told."""
        return settled(config)

    @abstractmethod
    def make_state(self, config: ConfigT) -> StateT:
        """A fresh state, with its source open; all randomness is seeded here."""

    def make_policy(self, model: ModelT) -> TensorDictSequential:
        """What acts, in collectors and evaluations."""
        return model.make_policy()

    @abstractmethod
    def update(self, state: StateT) -> dict[str, Tensor]:
        """One gradient update from a batch of the state; metrics. Raises FloatingPointError before weights go wrong."""

    @abstractmethod
    def save(self, state: StateT) -> Saved:
        """Optimisers and whatever else learning goes on from, beside the model."""

    @abstractmethod
    def load(self, state: StateT, saved: Saved) -> None:
        """Puts what `save` gave into a fresh state."""

    def check(self, state: StateT, transitions: TensorDictBase) -> None:
        """Raises ValueError for transitions that the model cannot learn from."""

    def describe(self, state: StateT) -> str:
        """What the first line of a run says of it beyond its steps."""
        return ""

    def warn(self, state: StateT) -> str:
        """What a person should be told of a state; it is said when it changes."""
        return ""

    def evaluate(
        self, config: ConfigT, model: ModelT, episodes: int, seed: int, check: Callable[[], None]
    ) -> Evaluation:
        """How good the model is: episodes of its policy in environments of their own, which `check` may end."""
        return play(config, model, self.make_policy(model), episodes, seed, check)

    def new_rows(self, config: ConfigT, model: ModelT, seed: int, most: int) -> TensorDictBase:
        """Arrival rows [T ≤ most] of an episode that was not learned from: one of the policy."""
        policy = self.make_policy(model)
        env = with_primers(config.make_env(1, seed), policy)
        env.set_seed(seed)
        try:
            with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
                transitions = env.rollout(most - 1, policy, auto_cast_to_device=True)
        finally:
            env.close()
        return Arrivals(model.observation_keys, model.action_keys)(transitions).rows


AnyRecipe = Recipe[RunConfig, WorldModel, RunState[RunConfig, WorldModel]]  # of a family that is named at run time
