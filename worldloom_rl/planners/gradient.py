"""Planning by gradient: sequences climb the value that the model foresees for them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldloom_rl.noise import Noise
from worldloom_rl.planners.distribution import SequenceDistribution
from worldloom_rl.planners.options import PlanKeywords, PlanOptions
from worldloom_rl.planners.plan import Iteration, Plan, policy_trajectories, take_sequences, trajectory_value
from worldloom_rl.planners.policy import Planner
from worldloom_rl.planners.predictive_sampling import score
from worldloom_rl.world_model import Latent, WorldModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULTS = PlanOptions(iterations=20, num_samples=8, num_elites=1, include_mean=True, init_std=0.5, min_std=0.3)


class GradientPlanner(Planner):
    """Adam's steps on action sequences, up the value; executes the best, which is the next plan's warm start.

    `num_samples` sequences start around the warm start with the deviation `init_std` and take `iterations` steps each.
    Where acting explores, its noise has the deviation `min_std`. Actions are continuous: reward, continuation and
    terminal value are differentiated by them.

    Args:
        step_size: of Adam, in units of flat actions.
        noise: source of random draws; by default the model's.
        options: fields of `PlanOptions`; those of refitting play no part.
    Raises ValueError for a model with discrete actions.
    Reference: Adam by Kingma and Ba 2015; for plans in latent models Srinivas et al. 2018 (arXiv:1804.00645).
    """

    def __init__(
        self,
        model: WorldModel,
        *,
        step_size: float = 0.1,
        noise: Noise | None = None,
        **options: Unpack[PlanKeywords],
    ) -> None:
        if model.action_space.groups:
            raise ValueError("A gradient leads through continuous actions alone; take CEMPlanner for discrete ones.")
        if not step_size > 0:
            raise ValueError(f"step_size must be positive, got {step_size}.")
        super().__init__(model, replace(DEFAULTS, **options), partial(climb, step_size=step_size), noise=noise)


def climb(
    model: WorldModel,
    latent: Latent,
    previous_mean: Tensor,
    distribution: SequenceDistribution,
    noise: Noise,
    *,
    explore: bool,
    step_size: float,
) -> Plan:
    """The plan for B environments at once; arguments and draws as `plan`'s, one value a step and one at the end."""
    options, mask = distribution.options, model.action_mask(latent)
    mean = distribution.warm_start(previous_mean)
    followed = [part.to(mean.dtype) for part in policy_trajectories(model, latent, options, noise)]
    count = options.num_samples - sum(part.shape[2] for part in followed)
    std = distribution.init_std.expand_as(mean)
    actions = torch.cat([*followed, distribution.sample(mean, std, count, noise)], 2)
    with torch.enable_grad():
        actions.requires_grad_()
        optimizer = torch.optim.Adam([actions], lr=step_size, maximize=True)
        for _ in range(options.iterations):
            value = trajectory_value(model, latent, _allowed(actions, mask), options, noise)
            if not value.requires_grad:
                raise ValueError("The actions have no gradient of the value: its reward must be differentiable.")
            (actions.grad,) = torch.autograd.grad(value.nan_to_num(0.0).sum(), actions)
            optimizer.step()
            with torch.no_grad():
                actions.copy_(torch.clamp(actions, distribution.low, distribution.high))
    actions = _allowed(actions.detach(), mask)
    value = trajectory_value(model, latent, actions, options, noise).nan_to_num(0.0)
    elite_value, elite_index = value.topk(1, -1)
    best = take_sequences(actions, elite_index).squeeze(2)
    std = torch.full_like(best, options.min_std)
    std = std if mask is None else std * mask
    last = Iteration(actions, value, elite_index, score(elite_value), best, std)
    chosen = best[: options.execute]
    if explore:
        chosen = distribution.explore(chosen, best, std, noise)
    return Plan(chosen[0], best.transpose(0, 1), [last], chosen.transpose(0, 1))


def _allowed(actions: Tensor, mask: Tensor | None) -> Tensor:
    """[H, B, N, A] without those that a task has not."""
    return actions if mask is None else actions * mask.unsqueeze(-2)
