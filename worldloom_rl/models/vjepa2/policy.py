"""The planner of V-JEPA 2-AC: the cross-entropy method over translations and the gripper.

Reference: facebookresearch/vjepa2 notebooks/utils/mpc_utils.py, cem.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from tensordict.nn import TensorDictSequential
from torch import Tensor

from worldloom_rl.functional.goal_reward import GoalReward, mean_absolute_distance
from worldloom_rl.models.vjepa2.config import VJEPA2ACConfig
from worldloom_rl.models.vjepa2.pose import POSE
from worldloom_rl.noise import Noise
from worldloom_rl.planners import CEMPlanner, cem
from worldloom_rl.planners.options import PlanKeywords
from worldloom_rl.specs.actions import ActionSpace
from worldloom_rl.world_model import WorldModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

_GRIPPER = POSE - 1


def make_policy(model: WorldModel, **options: Unpack[PlanKeywords]) -> TensorDictSequential:
    """A TorchRL policy that observes, plans and acts; see `make_planner` for the options.

    In a collector it needs `auto_register_policy_transforms=True`; the environment has to give the goal image.
    """
    return TensorDictSequential(model.observe, make_planner(model, **options), model.carry_action)


def make_planner(model: WorldModel, **options: Unpack[PlanKeywords]) -> CEMPlanner:
    """The planner with the numbers of the model's configuration, a `VJEPA2ACConfig`, which keywords replace.

    Translations are sampled with a first deviation of `max_translation` metres an axis, at which they are cut, the
    gripper's change with one of 1, cut at `max_gripper`; the hand is never turned, and the plan is the mean. All this
    is told in the units of the action spec, whose bounds must not be narrower.

    Every plan begins anew, as in the reference, unless `warm_start` says otherwise. The reward is by default that of
    coming nearer to the goal, d(z₀, g) − d(z_H, g) in all: plans rank by the distance at their end, as in the
    reference. `GoalReward(mean_absolute_distance)` rewards being near at every step.
    Raises ValueError where the action spec does not reach as far as the plan may.
    """
    config = model.config
    assert isinstance(config, VJEPA2ACConfig)
    space = model.action_space
    center, half_range = space.center.cpu(), space.half_range.cpu()
    reach = center.new_tensor([config.max_translation] * 3 + [0.0] * 3 + [config.max_gripper])
    deviation = center.new_tensor([config.max_translation] * 3 + [0.0] * 3 + [1.0])
    low, high = (-reach - center) / half_range, (reach - center) / half_range
    if bool((low < -1 - 1e-6).any() or (high > 1 + 1e-6).any()):
        raise ValueError(
            f"Plans move up to {reach.tolist()} each way, but the action spec is bounded by {space.low.tolist()} and "
            f"{space.high.tolist()}; lower max_translation or max_gripper, or widen the spec."
        )
    std = deviation / half_range
    settings: PlanKeywords = {
        "horizon": config.horizon,
        "iterations": config.iterations,
        "num_samples": config.num_samples,
        "num_elites": config.num_elites,
        "max_std": max(2.0, std.max().item()),  # no deviation of samples between the bounds is larger
        "unbiased_std": True,
        "init_mean": (-center / half_range).tolist(),
        "init_std": std.tolist(),
        "low": low.clamp(min=-1).tolist(),
        "high": high.clamp(max=1).tolist(),
        "momentum": [config.momentum_mean] * _GRIPPER + [config.momentum_mean_gripper],
        "momentum_std": [config.momentum_std] * _GRIPPER + [config.momentum_std_gripper],
        "warm_start": False,
        "reward": GoalReward(mean_absolute_distance, terminal=True),
    }
    settings.update(options)
    return CEMPlanner(model, choose=partial(_choose, min_gripper=config.min_gripper), **settings)


def _choose(
    space: ActionSpace, mean: Tensor, elites: Tensor, weight: Tensor, noise: Noise, *, min_gripper: float
) -> Tensor:
    """[H, B, A] the mean; a change of the gripper's closedness smaller than `min_gripper` counts as none."""
    action = cem.choose(space, mean, elites, weight, noise)
    gripper = action[..., _GRIPPER] * space.half_range[_GRIPPER] + space.center[_GRIPPER]
    still = -space.center[_GRIPPER] / space.half_range[_GRIPPER]
    chosen = torch.where(gripper.abs() < min_gripper, still, action[..., _GRIPPER])
    return torch.cat([action[..., :_GRIPPER], chosen.unsqueeze(-1)], -1)
