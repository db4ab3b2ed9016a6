"""SIGReg: how far a batch of embeddings is from an isotropic Gaussian, seen along random directions.

Reference: Balestriero & LeCun 2025 (arXiv:2511.08544), the Epps-Pulley test of sliced embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldloom_rl import ranks

_LARGEST_KNOT = 3.0


def sigreg(embedding: Tensor, directions: Tensor, knots: int = 17) -> Tensor:
    """[...] B · ∫ |φ_B(t) − exp(−t²/2)|² exp(−t²/2) dt over [−3, 3], a mean over directions; φ_B is the batch's
    characteristic function along one direction.

    About 1 for standard normal embeddings of any batch size; c · B where all B are alike, with c ≈ 0.4 at the origin
    and more elsewhere. Its weight in a loss therefore depends on B. B counts the rows of all processes, which share the
    directions.

    Args:
        embedding: [..., B, D]; the batch means are taken over B, for each leading index (a time step) on its own.
        directions: [D, M] standard normal draws, fresh at every call; their columns are normalised here.
        knots: of the trapezoid rule on [0, 3], doubled for symmetry.
    """
    t, weight, target = _quadrature(knots, embedding)
    projected = embedding @ (directions / directions.norm(dim=0, keepdim=True))
    angle = projected.unsqueeze(-1) * t  # [..., B, M, knots]
    real, imaginary = ranks.mean(angle.cos().mean(-3)), ranks.mean(angle.sin().mean(-3))
    distance = (real - target).square() + imaginary.square()
    statistic: Tensor = ranks.count() * embedding.shape[-2] * (distance @ weight).mean(-1)
    return statistic


def _quadrature(knots: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[knots] places, weights (the Gaussian's among them) and the Gaussian's characteristic function."""
    if knots < 2:
        raise ValueError(f"The trapezoid rule needs at least 2 knots, got {knots}.")
    t = torch.linspace(0.0, _LARGEST_KNOT, knots, dtype=like.dtype, device=like.device)
    step = _LARGEST_KNOT / (knots - 1)
    weight = torch.full_like(t, 2 * step)
    weight[0] = weight[-1] = step
    target = torch.exp(-t.square() / 2)
    return t, weight * target, target
