"""Everything a run goes on from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tensordict import TensorDictBase
from torch import Tensor

from worldloom_rl.training.evaluate import Evaluation
from worldloom_rl.training.options import RunConfig
from worldloom_rl.training.profile import NO_PROFILE, NoProfile
from worldloom_rl.training.source import Source
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
        """A batch of windows [B, L] to learn from."""
        with self.profile.timing("sampling"):
            return self.source.sample()

    def close(self) -> None:
        """Closes environments and removes scratch files; at the end of whatever uses the state."""
        self.source.close()
