"""Sizes of official V-JEPA 2 checkpoints, read from their tensors, and the shapes that follow from them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import Tensor

from worldloom_rl.models.vjepa2.config import VJEPA2ACConfig, mlp_ratio
from worldloom_rl.models.vjepa2.encoder import require_transformers
from worldloom_rl.models.vjepa2.official.settings import ImportSettings
from worldloom_rl.models.vjepa2.pose import POSE

if TYPE_CHECKING:
    from transformers import VJEPA2Config

_HEADS = {1024: 16, 1280: 16, 1408: 22, 384: 12}  # of the released encoders and predictors, by their width
_FRAMES = 64  # of a clip in pre-training; transformers keeps the number and does not use it

StateDict = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def world_model_config(encoder: StateDict, predictor: StateDict, settings: ImportSettings, key: str) -> VJEPA2ACConfig:
    """The configuration of an action-conditioned checkpoint; `key` is what its encoder is called there."""
    patch = _shape(encoder, "patch_embed.proj.weight", 5, key)
    actions = _shape(predictor, "action_encoder.weight", 2, "predictor")[1]
    if actions != POSE:
        raise ValueError(f"The predictor's actions have {actions} numbers; V-JEPA 2-AC's have {POSE}.")
    width = _shape(predictor, "predictor_embed.weight", 2, "predictor")[0]
    return VJEPA2ACConfig(
        image_size=settings.image_size,
        patch_size=patch[-1],
        tubelet_size=patch[2],
        encoder_dim=patch[0],
        encoder_depth=_depth(encoder, "blocks", key),
        encoder_heads=settings.encoder_heads or _heads(patch[0], "encoder_heads"),
        encoder_mlp_dim=_shape(encoder, "blocks.0.mlp.fc1.weight", 2, key)[0],
        predictor_dim=width,
        predictor_depth=_depth(predictor, "predictor_blocks", "predictor"),
        predictor_heads=settings.predictor_heads or _heads(width, "predictor_heads"),
        predictor_mlp_dim=_shape(predictor, "predictor_blocks.0.mlp.fc1.weight", 2, "predictor")[0],
        use_extrinsics=settings.use_extrinsics,
        history=settings.history,
        context=settings.context,
    )


def pretraining_config(encoder: StateDict, predictor: StateDict, settings: ImportSettings, key: str) -> VJEPA2Config:
    """transformers' configuration of a checkpoint of pre-training; `key` is what its encoder is called there."""
    patch = _shape(encoder, "patch_embed.proj.weight", 5, key)
    hidden = _shape(encoder, "blocks.0.mlp.fc1.weight", 2, key)[0]
    width = _shape(predictor, "predictor_embed.weight", 2, "predictor")[0]
    predictor_hidden = _shape(predictor, "predictor_blocks.0.mlp.fc1.weight", 2, "predictor")[0]
    return require_transformers().VJEPA2Config(
        crop_size=settings.image_size,
        frames_per_clip=_FRAMES,
        patch_size=patch[-1],
        tubelet_size=patch[2],
        hidden_size=patch[0],
        num_hidden_layers=_depth(encoder, "blocks", key),
        num_attention_heads=settings.encoder_heads or _heads(patch[0], "encoder_heads"),
        mlp_ratio=mlp_ratio(patch[0], hidden),
        pred_hidden_size=width,
        pred_num_hidden_layers=_depth(predictor, "predictor_blocks", "predictor"),
        pred_num_attention_heads=settings.predictor_heads or _heads(width, "predictor_heads"),
        pred_mlp_ratio=mlp_ratio(width, predictor_hidden),
        pred_num_mask_tokens=sum(name.startswith("mask_tokens.") for name in predictor),
    )


def pretraining_shapes(config: Any) -> tuple[Shapes, Shapes]:
    """Official names and shapes of the encoder and of the masked predictor, of transformers' configuration."""
    width, predictor_width = config.hidden_size, config.pred_hidden_size
    hidden, predictor_hidden = int(width * config.mlp_ratio), int(predictor_width * config.pred_mlp_ratio)
    sizes = (config.patch_size, config.tubelet_size, config.num_hidden_layers)
    predictor = _block_shapes("predictor_blocks", config.pred_num_hidden_layers, predictor_width, predictor_hidden)
    predictor |= {"predictor_embed.weight": (predictor_width, width), "predictor_embed.bias": (predictor_width,)}
    predictor |= {"predictor_norm.weight": (predictor_width,), "predictor_norm.bias": (predictor_width,)}
    predictor |= {"predictor_proj.weight": (width, predictor_width), "predictor_proj.bias": (width,)}
    masks = range(max(config.pred_num_mask_tokens, 1))
    predictor |= {f"mask_tokens.{i}": (1, 1, predictor_width) for i in masks}
    return _transformer_shapes("blocks", width, hidden, sizes), predictor


def _shape(tensors: StateDict, name: str, dimensions: int, part: str) -> tuple[int, ...]:
    """The shape of a tensor that tells sizes."""
    if name not in tensors:
        raise ValueError(f"The checkpoint's {part!r} lacks {name!r}, which tells its size; is it one of V-JEPA 2?")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions:
        raise ValueError(f"{name!r} of the checkpoint's {part!r} has shape {shape}, not {dimensions} dimensions.")
    return shape


def _depth(tensors: StateDict, blocks: str, part: str) -> int:
    indices = {int(found[1]) for name in tensors if (found := re.match(rf"{blocks}\.(\d{{1,4}})\.", name))}
    if not indices:
        raise ValueError(f"The checkpoint's {part!r} has no {blocks!r}; is it one of V-JEPA 2?")
    return max(indices) + 1


def _heads(width: int, setting: str) -> int:
    if width not in _HEADS:
        raise ValueError(
            f"No released V-JEPA 2 is {width} wide, and tensors do not tell the number of attention heads: "
            f"give {setting}."
        )
    return _HEADS[width]


def encoder_shapes(config: VJEPA2ACConfig) -> dict[str, tuple[int, ...]]:
    sizes = (config.patch_size, config.tubelet_size, config.encoder_depth)
    return _transformer_shapes("blocks", config.encoder_dim, config.encoder_mlp_dim, sizes)


def _transformer_shapes(
    blocks: str, width: int, hidden: int, sizes: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
    """Official names and shapes of an encoder; sizes are those of patch and tubelet, and the depth."""
    patch, tubelet, depth = sizes
    shapes = _block_shapes(blocks, depth, width, hidden)
    shapes |= {"patch_embed.proj.weight": (width, 3, tubelet, patch, patch), "patch_embed.proj.bias": (width,)}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def _block_shapes(blocks: str, depth: int, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    layer = {
        "norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,),
        "mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(depth):
        for name, shape in layer.items():
            shapes[f"{blocks}.{i}.{name}.weight"] = shape
            shapes[f"{blocks}.{i}.{name}.bias"] = shape[:1]
    return shapes
