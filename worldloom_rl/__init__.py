"""Latent world models for TorchRL: one key contract, imagination as an environment, planners as policies."""

from typing import TYPE_CHECKING

from worldloom_rl.gymnasium_names import register_names
from worldloom_rl.lazy import lazy_names

if TYPE_CHECKING:
    from worldloom_rl.auto import AutoWorldModel as AutoWorldModel
    from worldloom_rl.functional.goal_reward import GoalReward as GoalReward
    from worldloom_rl.noise import GeneratorNoise as GeneratorNoise
    from worldloom_rl.noise import ModeNoise as ModeNoise
    from worldloom_rl.noise import ReplayNoise as ReplayNoise
    from worldloom_rl.objectives import ActorPolicy as ActorPolicy
    from worldloom_rl.objectives import ImaginedActorCriticLoss as ImaginedActorCriticLoss
    from worldloom_rl.objectives import ReplayValueLoss as ReplayValueLoss
    from worldloom_rl.objectives import WorldModelLoss as WorldModelLoss
    from worldloom_rl.planners import CEMPlanner as CEMPlanner
    from worldloom_rl.planners import GradientPlanner as GradientPlanner
    from worldloom_rl.planners import ICEMPlanner as ICEMPlanner
    from worldloom_rl.planners import MPPIPlanner as MPPIPlanner
    from worldloom_rl.planners import PredictiveSamplingPlanner as PredictiveSamplingPlanner
    from worldloom_rl.planners import RandomShootingPlanner as RandomShootingPlanner
    from worldloom_rl.pretrained.registry import list_world_models as list_world_models
    from worldloom_rl.pretrained.registry import register_world_model as register_world_model
    from worldloom_rl.world_model import LatentPolicy as LatentPolicy
    from worldloom_rl.world_model import WorldModel as WorldModel
    from worldloom_rl.world_model.env import ImaginationEnv as ImaginationEnv
else:  # torch and torchrl, which take seconds, are imported by the first name that needs them
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".auto": ["AutoWorldModel"],
            ".functional.goal_reward": ["GoalReward"],
            ".noise": ["GeneratorNoise", "ModeNoise", "ReplayNoise"],
            ".objectives": ["ActorPolicy", "ImaginedActorCriticLoss", "ReplayValueLoss", "WorldModelLoss"],
            ".planners": [
                "CEMPlanner",
                "GradientPlanner",
                "ICEMPlanner",
                "MPPIPlanner",
                "PredictiveSamplingPlanner",
                "RandomShootingPlanner",
            ],
            ".pretrained.registry": ["list_world_models", "register_world_model"],
            ".world_model": ["LatentPolicy", "WorldModel"],
            ".world_model.env": ["ImaginationEnv"],
        },
    )

register_names()  # "worldloom/Dream-v0" and the games, without importing gymnasium
