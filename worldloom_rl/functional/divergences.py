"""Divergences between two probabilistic latents."""

from __future__ import annotations

from torch import Tensor


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """[...] KL(p ‖ q) = Σ over groups and classes of p (log p − log q), in nats.

    Args:
        log_p: [..., S, K] normalised log-probabilities.
        log_q: [..., S, K] normalised log-probabilities.
    """
    if log_p.shape != log_q.shape:
        raise ValueError(f"categorical_kl expects equal shapes, got {tuple(log_p.shape)} and {tuple(log_q.shape)}.")
    return (log_p.exp() * (log_p - log_q)).sum((-2, -1))


def gaussian_kl(mean_p: Tensor, std_p: Tensor, mean_q: Tensor, std_q: Tensor) -> Tensor:
    """[...] KL(p ‖ q) of diagonal Gaussians with means and standard deviations [..., S], in nats."""
    if not mean_p.shape == std_p.shape == mean_q.shape == std_q.shape:
        shapes = [tuple(x.shape) for x in (mean_p, std_p, mean_q, std_q)]
        raise ValueError(f"gaussian_kl expects four equal shapes, got {shapes}.")
    ratio = std_p / std_q
    distance = (mean_p - mean_q) / std_q
    return (0.5 * (ratio.square() + distance.square() - 1) - ratio.log()).sum(-1)
