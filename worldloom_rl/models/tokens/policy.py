"""How a token world model acts."""

from __future__ import annotations

from tensordict.nn import TensorDictSequential

from worldloom_rl.models.tokens.model import TokenWorldModel
from worldloom_rl.objectives import ActorPolicy


def make_policy(model: TokenWorldModel) -> TensorDictSequential:
    """Observation → latent → action, for any collector; the latent and the action are carried from row to row."""
    return TensorDictSequential(model.observe, ActorPolicy(model, model.behavior.actor), model.carry_action)
