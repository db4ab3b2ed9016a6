"""The planner of V-JEPA 2-AC: the cross-entropy method over translations and the gripper.

Reference: facebookresearch/vjepa2 notebooks/utils/mpc_utils.py, cem.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict.nn import TensorDictSequential
from torch import Tensor

from worldloom_rl.functional.goal_reward import GoalReward, mean_absolute_distance
from worldloom_rl.models.vjepa2.config import VJEPA2ACConfig
from worldloom_rl.models.vjepa2.model import VJEPA2AC
from worldloom_rl.models.vjepa2.pose import POSE
from worldloom_rl.noise import Noise
from worldloom_rl.planners import CEMPlanner
from worldloom_rl.world_model import RewardFunction, WorldModel

_GRIPPER = POSE - 1


class ACPlanner(CEMPlanner):
    """CEM whose planned gripper motions count as none where they are small.

    Args:
        min_gripper: of the change of closedness; what is smaller becomes 0.
    """

    def __init__(self, model: WorldModel, *, min_gripper: float, **options: Any) -> None:
        super().__init__(model, **options)
        self.min_gripper = min_gripper

    def _choose(self, mean: Tensor, elites: Tensor, score: Tensor, noise: Noise) -> Tensor:
        space = self.model.action_space
        action = super()._choose(mean, elites, score, noise)
        gripper = action[..., _GRIPPER] * space.half_range[_GRIPPER] + space.center[_GRIPPER]
        still = -space.center[_GRIPPER] / space.half_range[_GRIPPER]
        chosen = torch.where(gripper.abs() < self.min_gripper, still, action[..., _GRIPPER])
        return torch.cat([action[..., :_GRIPPER], chosen.unsqueeze(-1)], -1)


def make_planner(
    model: WorldModel,
    *,
    execute: int = 1,
    reward: RewardFunction | None = None,
    warm_start: bool = False,
    noise: Noise | None = None,
) -> ACPlanner:
    """The planner with the numbers of the model's configuration, a `VJEPA2ACConfig`; it never turns the hand.

    Translations are sampled with a first deviation of `max_translation` metres an axis, at which they are cut, the
    gripper's change with one of 1, cut at `max_gripper`; the plan is the mean. All this is told in the units of the
    action spec, whose bounds must not be narrower.

    Args:
        execute: actions of a plan that are executed before the next one is made.
        reward: by default that of coming nearer to the goal, d(z₀, g) − d(z_H, g) in all: plans rank by the distance at
            their end, as in the reference. `GoalReward(mean_absolute_distance)` rewards being near at every step.
        warm_start: begin with the previous plan, which the reference does not.
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
    momentum = [config.momentum_mean] * _GRIPPER + [config.momentum_mean_gripper]
    momentum_std = [config.momentum_std] * _GRIPPER + [config.momentum_std_gripper]
    std = deviation / half_range
    return ACPlanner(
        model,
        min_gripper=config.min_gripper,
        horizon=config.horizon,
        iterations=config.iterations,
        num_samples=config.num_samples,
        num_elites=config.num_elites,
        max_std=max(2.0, std.max().item()),  # no deviation of samples between the bounds is larger
        unbiased_std=True,
        init_mean=(-center / half_range).tolist(),
        init_std=std.tolist(),
        low=low.clamp(min=-1).tolist(),
        high=high.clamp(max=1).tolist(),
        momentum=momentum,
        momentum_std=momentum_std,
        execute=execute,
        warm_start=warm_start,
        reward=reward or GoalReward(mean_absolute_distance, terminal=True),
        noise=noise,
    )


def make_policy(model: VJEPA2AC, **options: Any) -> TensorDictSequential:
    """A TorchRL policy that observes, plans and acts; see `make_planner` for the options.

    In a collector it needs `auto_register_policy_transforms=True`; the environment has to give the goal image.
    """
    return TensorDictSequential(model.observe, make_planner(model, **options), model.carry_action)
