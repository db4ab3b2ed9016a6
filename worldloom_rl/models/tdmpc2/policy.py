"""How TD-MPC2 acts: by planning, or by its policy prior alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.envs.utils import ExplorationType, exploration_type

from worldloom_rl.noise import Noise
from worldloom_rl.planners.mppi import MPPIKeywords, MPPIPlanner
from worldloom_rl.planners.termination import sticky_cut
from worldloom_rl.world_model import Latent, LatentPolicy, WorldModel

if TYPE_CHECKING:
    from typing_extensions import Unpack


def make_policy(model: WorldModel, **options: Unpack[MPPIKeywords]) -> TensorDictSequential:
    """Observation → latent → plan → action, for any collector; see `make_planner` for the options.

    In a collector it needs `auto_register_policy_transforms=True`.
    """
    return TensorDictSequential(model.encode, make_planner(model, **options))


def make_planner(model: WorldModel, **options: Unpack[MPPIKeywords]) -> MPPIPlanner:
    """The official planner on a TD-MPC2 model, as a policy that reads the latent; keywords replace its numbers.

    Two iterations are added for 20 and more action dimensions, as the official agent does.
    """
    config = model.config
    settings: MPPIKeywords = {
        "horizon": config.horizon,
        "iterations": config.iterations + 2 * (model.action_space.width >= 20),
        "num_samples": config.num_samples,
        "num_elites": config.num_elites,
        "num_policy_trajectories": config.num_policy_trajectories,
        "min_std": config.min_std,
        "max_std": config.max_std,
        "temperature": config.temperature,
        "termination": sticky_cut,
        # Partials of a module's functions reach collector processes and are copied with their model; closures do not.
        "policy_prior": partial(_policy_prior, model),
        "terminal_value": partial(_terminal_value, model),
    }
    settings.update(options)
    return MPPIPlanner(model, **settings)


def _policy_prior(model: WorldModel, latent: Latent, noise: Noise) -> Tensor:
    return model.behavior.act(model.latent_features(latent), model.action_mask(latent), noise)  # type: ignore[no-any-return]


def _terminal_value(model: WorldModel, latent: Latent, noise: Noise) -> Tensor:
    return model.behavior.value(model.latent_features(latent), model.action_mask(latent), noise)


class PolicyPrior(LatentPolicy):
    """Acts by the policy prior alone: a sample when exploring, its mode under ExplorationType.DETERMINISTIC or MODE."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model)
        self.deterministic = (ExplorationType.DETERMINISTIC, ExplorationType.MODE, ExplorationType.MEAN)

    def act(self, latent: Latent, noise: Noise) -> Tensor:
        features, mask = self.model.latent_features(latent), self.model.action_mask(latent)
        mode = exploration_type() in self.deterministic
        return self.model.behavior.act(features, mask, noise, mode=mode)  # type: ignore[no-any-return]
