"""Terms that keep embeddings from collapsing without a target: variance, covariance and smoothness.

Reference: Bardes et al. 2022 (arXiv:2105.04906); over time and with their use in planning Sobal et al. 2025
(arXiv:2502.14819), PLDM.
"""

from __future__ import annotations

from torch import Tensor

from worldloom_rl import ranks

_VARIANCE_FLOOR = 1e-4


def batch_centred(embedding: Tensor) -> Tensor:
    """[B, T, D] less the mean over the batch of all processes; what the terms below are asked for."""
    return embedding - ranks.mean(embedding.mean(0, keepdim=True))


def variance_hinge(samples: Tensor, *, shared: bool = False) -> Tensor:
    """[G, D] max(0, 1 − standard deviation) over the samples; 0 where an embedding varies enough.

    Args:
        samples: [S, G, D]; S is the batch for PLDM's "std", time for its "std_t".
        shared: other processes hold the rest of the samples.
    """
    if shared and ranks.count() > 1:
        total = ranks.count() * len(samples)
        variance = ranks.moments(samples)[1] * (total / (total - 1))
    else:
        variance = samples.var(0)
    deviation = (variance + _VARIANCE_FLOOR).sqrt()
    return (1.0 - deviation).relu()


def covariance_penalty(centred: Tensor, *, shared: bool = False) -> Tensor:
    """[G] mean squared covariance of two different dimensions.

    Args:
        centred: [S, G, D], not centred again; S is the batch for PLDM's "cov", time for its "cov_t".
        shared: other processes hold the rest of the samples.
    """
    samples, _, width = centred.shape
    by_group = centred.transpose(0, 1)
    products = by_group.transpose(1, 2) @ by_group
    if shared and ranks.count() > 1:
        products, samples = ranks.mean(products) * ranks.count(), samples * ranks.count()
    covariance = products / (samples - 1)
    squares = covariance.square()
    off_diagonal = squares.sum((1, 2)) - squares.diagonal(dim1=1, dim2=2).sum(-1)
    return off_diagonal / (width * width - width)


def temporal_distance(embedding: Tensor) -> Tensor:
    """[..., T − 1] mean squared difference of embeddings [..., T, D] that follow each other."""
    return (embedding[..., :-1, :] - embedding[..., 1:, :]).square().mean(-1)
