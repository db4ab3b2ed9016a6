"""How DreamerV3 acts, and how a planner acts on it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tensordict.nn import TensorDictSequential
from torch import Tensor

from worldloom_rl.nn.actor_critic import ActorCritic
from worldloom_rl.noise import Noise
from worldloom_rl.objectives import ActorPolicy
from worldloom_rl.planners.mppi import MPPIKeywords, MPPIPlanner
from worldloom_rl.world_model import Latent, WorldModel

if TYPE_CHECKING:
    from typing_extensions import Unpack


def make_policy(model: WorldModel, *, sample_always: bool = False) -> TensorDictSequential:
    """Observation → posterior → action, for any collector; the latent and the action are carried from row to row.

    Args:
        sample_always: draw actions in evaluation too, as the official code does, instead of the mode.
    """
    actor = ActorPolicy(model, model.behavior.actor, sample_always=sample_always)
    return TensorDictSequential(model.observe, actor, model.carry_action)


def make_planner(
    model: WorldModel, behavior: ActorCritic | None = None, **options: Unpack[MPPIKeywords]
) -> MPPIPlanner:
    """MPPI through a model, with an actor as policy prior and its critic as terminal value.

    Args:
        behavior: actor and critic over the model's features; by default the model's own.
        options: keywords of `MPPIPlanner`.
    """
    behavior = model.behavior if behavior is None else behavior
    settings: MPPIKeywords = {
        "policy_prior": partial(_policy_prior, model, behavior),
        "terminal_value": partial(_terminal_value, model, behavior),
    }
    settings.update(options)
    return MPPIPlanner(model, **settings)


def _policy_prior(model: WorldModel, behavior: ActorCritic, latent: Latent, noise: Noise) -> Tensor:
    return behavior.actor(model.latent_features(latent)).sample(noise).clamp(-1, 1)  # type: ignore[no-any-return]


def _terminal_value(model: WorldModel, behavior: ActorCritic, latent: Latent, noise: Noise) -> Tensor:
    return behavior.critic.mean(behavior.critic(model.latent_features(latent)))
