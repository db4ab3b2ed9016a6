"""Our tensors' names in LeWM's checkpoints, as its code has them now and as transformers named a ViT before."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_THIRDS = ("q_proj", "k_proj", "v_proj")  # of the encoder's fused projection
_OFFICIAL = (  # ours: theirs
    (r"encoder\.images\.0\.network\.patches\.", "encoder.embeddings.patch_embeddings.projection."),
    (r"encoder\.images\.0\.network\.class_token", "encoder.embeddings.cls_token"),
    (r"encoder\.images\.0\.network\.position", "encoder.embeddings.position_embeddings"),
    (r"encoder\.images\.0\.network\.norm\.", "encoder.layernorm."),
    (r"encoder\.images\.0\.network\.blocks\.", "encoder.layers."),
    (r"action_encoder\.filters\.", "action_encoder.patch_embed."),
    (r"action_encoder\.expand\.", "action_encoder.embed.0."),
    (r"action_encoder\.contract\.", "action_encoder.embed.2."),
    (r"predictor\.position", "predictor.pos_embedding"),
    (r"predictor\.blocks\.", "predictor.transformer.layers."),
    (r"predictor\.norm\.", "predictor.transformer.norm."),
    (r"predictor\.input\.", "predictor.transformer.input_proj."),
    (r"predictor\.condition\.", "predictor.transformer.cond_proj."),
    (r"predictor\.output\.", "predictor.transformer.output_proj."),
    (r"prediction_projector\.", "pred_proj."),
)
_IN_ENCODER_BLOCKS = (
    (".attention.output.", ".attention.o_proj."),
    (".attention_norm.", ".layernorm_before."),
    (".feed_forward_norm.", ".layernorm_after."),
    (".feed_forward.expand.", ".mlp.fc1."),
    (".feed_forward.contract.", ".mlp.fc2."),
)
_IN_PREDICTOR_BLOCKS = (
    (".modulation.", ".adaLN_modulation.1."),
    (".attention_norm.", ".attn.norm."),
    (".attention.query_key_value.", ".attn.to_qkv."),
    (".attention.output.", ".attn.to_out.0."),
    (".feed_forward_norm.", ".mlp.net.0."),
    (".feed_forward.expand.", ".mlp.net.1."),
    (".feed_forward.contract.", ".mlp.net.4."),
)
_IN_PROJECTORS = ((".expand.", ".net.0."), (".norm.", ".net.1."), (".contract.", ".net.3."))
_BEFORE = (  # in transformers' ViT of that time: now
    (r"^encoder\.encoder\.layer\.", "encoder.layers."),
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_ACTIONS = ("action_encoder.mean", "action_encoder.std")  # ours alone


def current_name(name: str) -> str:
    """The name that LeWM's code has now for a tensor of the encoder that it named as transformers did before."""
    if name.startswith("encoder.encoder.layer."):
        for before, now in _BEFORE:
            name = re.sub(before, now, name)
    return name


def official_shapes(ours: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Official names of the tensors that make up our state dict, with the shapes that these have there."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in ours.items():
        shape = tuple(tensor.shape)
        official = _official_name(name)
        if _is_fused(official):
            for third in _thirds_of(official):
                shapes[third] = (shape[0] // 3, *shape[1:])
        elif name not in _ACTIONS:
            shapes[official] = _official_shape(official, shape)
    return shapes


def our_tensors(official: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official tensors under our names and in our shapes; all that `official_shapes` names must be there."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        theirs = _official_name(name)
        if _is_fused(theirs):
            tensors[name] = torch.cat([official[third] for third in _thirds_of(theirs)])
        elif name not in _ACTIONS:
            tensors[name] = official[theirs].reshape(tensor.shape)
    return tensors


def _official_name(name: str) -> str:
    for pattern, official in _OFFICIAL:
        name = re.sub(f"^{pattern}", official, name)
    inner: tuple[tuple[str, str], ...] = ()
    if name.startswith("encoder.layers."):
        inner = _IN_ENCODER_BLOCKS
    elif name.startswith("predictor.transformer.layers."):
        inner = _IN_PREDICTOR_BLOCKS
    elif name.startswith(("projector.", "pred_proj.")):
        inner = _IN_PROJECTORS
    for part, official in inner:
        name = name.replace(part, official)
    return name


def _is_fused(official: str) -> bool:
    """Whether the encoder of the official code has three tensors for it: queries, keys, values."""
    return official.startswith("encoder.layers.") and ".attention.query_key_value." in official


def _thirds_of(official: str) -> list[str]:
    return [official.replace("query_key_value", third) for third in _THIRDS]


def _official_shape(official: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The official code keeps axes of one: a batch before class token and positions, a kernel behind the filters."""
    if official in ("encoder.embeddings.position_embeddings", "predictor.pos_embedding"):
        return (1, *shape)
    if official == "encoder.embeddings.cls_token":
        return (1, 1, *shape)
    return (*shape, 1) if official == "action_encoder.patch_embed.weight" else shape
