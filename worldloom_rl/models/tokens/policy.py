"""How a token world model acts."""

from __future__ import annotations

from tensordict.nn import TensorDictSequential

from worldloom_rl.objectives import ActorPolicy
from worldloom_rl.world_model import WorldModel


def make_policy(model: WorldModel) -> TensorDictSequential:
    """Observation → latent → action, for any collector; the latent and the action are carried from row to row."""
    return TensorDictSequential(model.observe, ActorPolicy(model, model.behavior.actor), model.carry_action)
