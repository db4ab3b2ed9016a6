"""Planning to a goal observation: a planner with the model's numbers, and the whole acting policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensordict.nn import TensorDictSequential

from worldloom_rl.functional.goal_reward import GoalReward
from worldloom_rl.planners import CEMPlanner, Planner
from worldloom_rl.world_model.windowed import WindowedJEPA


def make_policy(
    model: WindowedJEPA, planner: Callable[..., Planner] = CEMPlanner, **options: Any
) -> TensorDictSequential:
    """A TorchRL policy that observes, plans and acts; see `make_planner` for the arguments.

    In a collector it needs `auto_register_policy_transforms=True`; the environment has to give the goal observation.
    """
    return TensorDictSequential(model.observe, make_planner(model, planner, **options), model.carry_action)


def make_planner(model: WindowedJEPA, planner: Callable[..., Planner] = CEMPlanner, **options: Any) -> Planner:
    """A planner to the goal in the latent, with the configuration's numbers, which keywords replace.

    Unless a `reward` is given, being near the goal is rewarded at every step (dense), or, where whole plans are
    executed, only at their end (terminal), as LeWM does; see `GoalReward`.

    Args:
        planner: the class of the planner, such as `MPPIPlanner`.
        options: its keywords.
    """
    config = model.config
    settings: dict[str, Any] = {
        "horizon": config.horizon,
        "iterations": config.iterations,
        "num_samples": config.num_samples,
        "num_elites": config.num_elites,
        "init_std": config.init_std,
        "execute": config.execute,
        "min_std": 0.0,
        "include_mean": True,
    }
    settings.update(options)
    whole_plans = settings["execute"] == settings["horizon"]
    settings.setdefault("reward", GoalReward(model.distance, terminal=whole_plans))
    return planner(model, **settings)
