"""Rewards of coming near a goal, for models that predict none: a distance of tokens, and what a step changes in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from worldloom_rl.functional.precision import at_least_float32

Distance = Callable[[Tensor, Tensor], Tensor]


def squared_distance(tokens: Tensor, goal: Tensor) -> Tensor:
    """[..., 1] sum of squared differences of tokens [..., N, D] (LeWM)."""
    return (tokens - goal).square().sum((-2, -1)).unsqueeze(-1)


def mean_absolute_distance(tokens: Tensor, goal: Tensor) -> Tensor:
    """[..., 1] mean of absolute differences of tokens [..., N, D] (V-JEPA 2-AC, whose tokens are layer-normed)."""
    return (tokens - goal).abs().mean((-2, -1)).unsqueeze(-1)


@dataclass(frozen=True)
class GoalReward:
    """[..., 1] reward of a step between two latents that hold "tokens" and "goal", each [..., N, D].

    Attributes:
        distance: of tokens from the goal.
        terminal: False rewards being near, −d(z', g) at every step: for planning that executes the first action only.
            True rewards coming nearer, d(z, g) − d(z', g): the sum over a plan is d(z₀, g) − d(z_H, g), so that plans
            rank by where they end; for executing them whole. When only their first action is executed, a model that
            may be at the goal at the end of the plan is in no haste to get there.

    Example:
        >>> import torch
        >>> from worldloom_rl import GoalReward
        >>> before, after = ({"tokens": torch.full((1, 1), place), "goal": torch.zeros(1, 1)} for place in (3.0, 2.0))
        >>> GoalReward()(before, after), GoalReward(terminal=True)(before, after)
        (tensor([-4.]), tensor([5.]))
    """

    distance: Distance = squared_distance
    terminal: bool = False

    def __call__(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Tensor:
        remaining = self._distance(after)
        return self._distance(before) - remaining if self.terminal else -remaining

    def _distance(self, latent: Mapping[str, Tensor]) -> Tensor:
        return self.distance(at_least_float32(latent["tokens"]), at_least_float32(latent["goal"]))
