"""Regression as classification over bins that are evenly spaced in symlog space, weighted in raw space.

Reference: Hafner et al. 2023 (arXiv:2301.04104), symexp two-hot; dreamerv3 outs.py, TwoHot.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LIMIT = 20.0  # the outer bins lie at symexp(±20), about ±4.9e8


def symexp_bins(count: int, *, device: torch.device | str | None = None) -> Tensor:
    """float32 [K] ascending positions symexp(−20) … symexp(20), the exact mirror image of themselves.

    An odd count has its middle bin at 0; an even one has two bins there, as in the official code.

    Args:
        count: K, at least 2.
    """
    if count < 2:
        raise ValueError(f"symexp_bins expects at least 2 bins, got {count}.")
    # Mirrored instead of computed: rounding would else leave sums of ±4.9e8 that do not cancel.
    lower = -torch.expm1(-torch.linspace(-_LIMIT, 0.0, (count + 1) // 2, dtype=torch.float32, device=device))
    return torch.cat([lower, -lower[: count // 2].flip(0)])


def symexp_two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """[..., K] weights on the two bins around x, which sum to one and whose mean is x; arguments as of the pair."""
    index, weights = symexp_two_hot_pair(x, bins)
    return weights.new_zeros(*x.shape[:-1], bins.shape[0]).scatter(-1, index, weights)


def symexp_two_hot_pair(x: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [..., 2] the two bins around x, and their weights [..., 2], which sum to one and whose mean is x.

    Args:
        x: [..., 1]; beyond the outer bins it counts as the nearest of them.
        bins: [K], of `symexp_bins`.
    """
    if x.shape[-1:] != (1,):
        raise ValueError(f"symexp_two_hot expects a last dimension of size 1, got shape {tuple(x.shape)}.")
    x = x.to(bins.dtype).contiguous()  # searchsorted warns of strided values
    # The last bin that is not above x, so that of two bins at 0 the second is taken and no width is zero.
    below = (torch.searchsorted(bins, x, right=True) - 1).clamp(0, bins.shape[0] - 2)
    low, high = bins[below], bins[below + 1]
    weight = ((x - low) / (high - low)).clamp(0.0, 1.0)
    return torch.cat([below, below + 1], -1), torch.cat([1 - weight, weight], -1)


def symexp_two_hot_mean(logits: Tensor, bins: Tensor) -> Tensor:
    """[..., 1] the expected bin under softmax(logits), in the precision of the bins.

    Each bin is weighted by how much likelier it is than its mirror image, so that large positions cancel before
    they are summed: equal logits mean exactly 0.

    Args:
        logits: [..., K].
        bins: [K], of `symexp_bins`.
    """
    if logits.shape[-1:] != bins.shape:
        shapes = f"{tuple(logits.shape)} and {tuple(bins.shape)}"
        raise ValueError(f"symexp_two_hot_mean expects logits [..., K] for bins [K], got {shapes}.")
    probability = logits.softmax(-1, dtype=bins.dtype)
    half = bins.shape[0] // 2  # the middle bin of an odd count is 0 and adds nothing
    upper = bins.shape[0] - half
    excess = probability[..., upper:] - probability[..., :half].flip(-1)
    with torch.autocast(logits.device.type, enabled=False):
        return (excess @ bins[upper:]).unsqueeze(-1)
