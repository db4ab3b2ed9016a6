"""Tensors of official V-JEPA 2 state dicts under the names of transformers' modules."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_ENCODER = (
    (r"patch_embed\.", "embeddings.patch_embeddings."),
    (r"blocks\.(\d+)\.attn\.", r"layer.\1.attention."),
    (r"blocks\.(\d+)\.(norm1|norm2|mlp)\.", r"layer.\1.\2."),
    (r"norm\.", "layernorm."),
)
_MASKED_PREDICTOR = (
    (r"predictor_embed\.", "embeddings.predictor_embeddings."),
    (r"predictor_blocks\.(\d+)\.attn\.", r"layer.\1.attention."),
    (r"predictor_blocks\.(\d+)\.(norm1|norm2|mlp)\.", r"layer.\1.\2."),
    (r"predictor_norm\.", "layernorm."),
    (r"predictor_proj\.", "proj."),
    (r"mask_tokens\.(\d+)$", r"embeddings.mask_tokens.\1"),
)


def encoder_tensors(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `VJEPA2Encoder.encoder`. Raises ValueError naming the first that has no counterpart."""
    return _renamed(official, _ENCODER)


def masked_predictor_tensors(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `VJEPA2Encoder.masked_predictor`. Raises ValueError naming the first without a counterpart."""
    tensors = _renamed(official, _MASKED_PREDICTOR)
    prefix = "embeddings.mask_tokens."
    count = sum(name.startswith(prefix) for name in tensors)
    masks = [tensors.pop(f"{prefix}{i}", None) for i in range(count)]
    missing = [i for i, mask in enumerate(masks) if mask is None]
    if missing or not masks:
        raise ValueError(f"The predictor lacks mask_tokens.{missing[0] if missing else 0}; its tokens count from 0.")
    return {**tensors, "embeddings.mask_tokens": torch.stack([mask for mask in masks if mask is not None])}


def _renamed(official: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, tensor in official.items():
        found = next((re.sub(f"^{old}", new, name) for old, new in rules if re.match(old, name)), None)
        if found is None:
            raise ValueError(f"The tensor {name!r} of shape {tuple(tensor.shape)} is not one of V-JEPA 2.")
        fused = re.fullmatch(r"(.+\.attention\.)qkv\.(weight|bias)", found)
        if fused is None:
            tensors[found] = tensor
            continue
        if tensor.shape[0] % 3:
            raise ValueError(f"The rows of {name!r}, {tensor.shape[0]}, should be thirds: queries, keys and values.")
        for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            tensors[f"{fused[1]}{part}.{fused[2]}"] = rows
    return tensors
