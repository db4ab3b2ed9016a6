"""Returns: what a state is worth, from the rewards and the values that follow it."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_return(reward: Tensor, bootstrap: Tensor, live: Tensor, last: Tensor | None, lambda_: float) -> Tensor:
    """[..., L−1] λ-returns Gₜ of all rows but the last, computed backwards from G_{L−1} = v_{L−1}.

        Gₜ = rₜ₊₁ + cₜ₊₁ [(1 − λₜ₊₁) vₜ₊₁ + λₜ₊₁ Gₜ₊₁],    λₜ = λ (1 − lastₜ)

    Time is the last dimension and all arguments belong to the row they arrived with, so that row 0 is not read.

    Args:
        reward: [..., L] rₜ, received on arrival at row t.
        bootstrap: [..., L] vₜ, value of row t.
        live: [..., L] cₜ, the discount where the episode goes on from row t and 0 where it terminated:
            γ (1 − terminatedₜ), or a predicted probability.
        last: [..., L] whether row t ends its episode, for whatever reason; what comes after it is not used.
            None where no row does.
        lambda_: λ in [0, 1]; 0 gives one-step returns.
    Reference: Hafner et al. 2023 (arXiv:2301.04104), critic learning; dreamerv3 agent.py, lambda_return.
    """
    shapes = [tuple(x.shape) for x in (reward, bootstrap, live, last) if x is not None]
    if len(set(shapes)) > 1:
        raise ValueError(f"lambda_return expects equal shapes [..., L], got {shapes}.")
    if reward.dim() == 0 or reward.shape[-1] < 2:
        raise ValueError(f"lambda_return expects at least two rows of time, got shape {shapes[0]}.")
    reward_tp1, bootstrap_tp1, live_tp1 = reward[..., 1:], bootstrap[..., 1:], live[..., 1:]
    decay = live_tp1 * lambda_
    if last is not None:
        decay = decay * (1 - last[..., 1:].to(decay.dtype))
    one_step = reward_tp1 + (live_tp1 - decay) * bootstrap_tp1
    returns = [bootstrap[..., -1]]
    for one_step_t, decay_t in zip(reversed(one_step.unbind(-1)), reversed(decay.unbind(-1)), strict=True):
        returns.append(torch.addcmul(one_step_t, decay_t, returns[-1]))
    return torch.stack(returns[:0:-1], -1)
