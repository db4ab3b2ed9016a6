"""Sizes of a LeWM checkpoint, read from its tensors, and the few numbers that only its config.json has."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from worldloom_rl.config import Json
from worldloom_rl.models.jepa.config import JEPAConfig
from worldloom_rl.models.jepa.official.settings import ImportSettings
from worldloom_rl.pretrained.tensors import shown

_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # of vision transformers, by their width
_FILTERS = "action_encoder.patch_embed.weight"
_POSITIONS = "encoder.embeddings.position_embeddings"


def describe(
    tensors: Mapping[str, Tensor], numbers: Mapping[str, Json], settings: ImportSettings
) -> tuple[JEPAConfig, int]:
    """The configuration, and the pixels of an image's side.

    Args:
        numbers: what config.json holds; of its predictor "heads", "dim_head" and "dropout" are read, nothing else.
    Raises ValueError for sizes that cannot be told or contradict each other.
    """
    width, _, patch, _ = _shape(tensors, "encoder.embeddings.patch_embeddings.projection.weight", 4)
    patches = _shape(tensors, _POSITIONS, 3)[1] - 1
    side = math.isqrt(max(patches, 0))
    if side * side != patches or not side:
        raise ValueError(f"{_POSITIONS!r} has {patches} patches, which make no square image.")
    latent, projected = _shape(tensors, "projector.net.3.weight", 2)
    heads, head_dim, dropout = _of_predictor(numbers)
    config = JEPAConfig(
        encoder="vit",
        patch_size=patch,
        encoder_dim=width,
        encoder_layers=_depth(tensors, "encoder.layers"),
        encoder_heads=settings.encoder_heads or _encoder_heads(width),
        encoder_mlp=_shape(tensors, "encoder.layers.0.mlp.fc1.weight", 2)[0],
        latent_dim=latent,
        projector_dim=projected,
        history=_shape(tensors, "predictor.pos_embedding", 3)[1],
        action_filters=_shape(tensors, _FILTERS, 3)[0],
        predictor_dim=_shape(tensors, "predictor.transformer.norm.weight", 1)[0],
        predictor_layers=_depth(tensors, "predictor.transformer.layers"),
        predictor_heads=heads,
        predictor_head_dim=head_dim,
        predictor_mlp=_shape(tensors, "predictor.transformer.layers.0.mlp.net.1.weight", 2)[0],
        dropout=dropout,
    )
    return config, side * patch


def action_width(tensors: Mapping[str, Tensor]) -> int:
    """Numbers of an action as the model takes it: as many actions of the environment as frames are skipped."""
    return _shape(tensors, _FILTERS, 3)[1]


def action_columns(given: tuple[float, ...], width: int, name: str, otherwise: float) -> list[float]:
    """One number a column of an action [width], from one a dimension of the environment's action.

    Raises ValueError if their number does not divide the width, or one is not finite.
    """
    columns = list(given) or [otherwise]
    if width % len(columns) or not all(map(math.isfinite, columns)):
        raise ValueError(
            f"{name} has {len(columns)} numbers, {list(columns)}: a finite one is needed a dimension of the "
            f"environment's action, of which the checkpoint's {width} are a multiple."
        )
    return columns * (width // len(columns))


def _of_predictor(numbers: Mapping[str, Json]) -> tuple[int, int, float]:
    """Heads, width of a head and dropout: none of them is to be seen in the tensors."""
    said = numbers.get("predictor")
    if not isinstance(said, dict):
        raise ValueError("config.json has no 'predictor', whose 'heads' and 'dim_head' the tensors do not tell.")
    heads, head_dim, dropout = said.get("heads"), said.get("dim_head", 64), said.get("dropout", 0.0)
    for name, value in (("heads", heads), ("dim_head", head_dim)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"config.json: predictor's {name!r} must be a whole number above 0, got {value!r:.80}.")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"config.json: predictor's 'dropout' must be a share in [0, 1), got {dropout!r:.80}.")
    assert isinstance(heads, int)
    assert isinstance(head_dim, int)
    return heads, head_dim, float(dropout)


def _shape(tensors: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that tells sizes."""
    if name not in tensors:
        raise ValueError(f"The checkpoint lacks {name!r}, which tells its size; is it one of LeWM?")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions:
        raise ValueError(f"{shown(name)} has shape {shape}, not {dimensions} dimensions.")
    return shape


def _depth(tensors: Mapping[str, Tensor], blocks: str) -> int:
    found = {int(match[1]) for name in tensors if (match := re.match(rf"{re.escape(blocks)}\.(\d{{1,3}})\.", name))}
    if found != set(range(len(found))) or not found:
        raise ValueError(f"The checkpoint has the blocks {sorted(found)[:8]} of {blocks!r}; they count from 0.")
    return len(found)


def _encoder_heads(width: int) -> int:
    if width not in _HEADS:
        raise ValueError(
            f"No vision transformer of {width} dimensions is known, and tensors do not tell its attention heads: give "
            "encoder_heads."
        )
    return _HEADS[width]
