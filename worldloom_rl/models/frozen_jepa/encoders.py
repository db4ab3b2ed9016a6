"""Frozen encoders: those of transformers, built from their configuration, and their description for a saved model."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from worldloom_rl.config import Json
from worldloom_rl.extras import require
from worldloom_rl.kernels.attention import differentiable_attention
from worldloom_rl.models.frozen_jepa.transformers_text import KINDS, read_transformers


def describe(encoder: nn.Module, image_size: int) -> dict[str, Json]:
    """The fields of a `FrozenJEPAConfig` that an encoder decides: "transformers", "num_tokens" and "token_dim".

    Raises ValueError if the encoder gives no tokens [1, P, d], or is not what its configuration builds.
    """
    device = next((x.device for x in encoder.parameters()), torch.device("cpu"))
    with torch.no_grad():
        tokens = tokens_of(encoder, torch.zeros(1, 3, image_size, image_size, device=device))
    if tokens.dim() != 3:
        raise ValueError(f"An encoder gives tokens [N, P, d] or vectors [N, d], not {tuple(tokens.shape)}.")
    text, num_tokens = _transformers_text(encoder), tokens.shape[1]
    if text:
        num_tokens = (image_size // json.loads(text)["patch_size"]) ** 2
        with torch.device("meta"):
            built = {name: x.shape for name, x in build_transformers(text).state_dict().items()}
        if built != {name: x.shape for name, x in encoder.state_dict().items()}:
            raise ValueError(
                f"transformers.AutoModel builds other tensors from this {type(encoder).__name__}'s configuration; "
                "take the model that AutoModel gives, or wrap it in a module of your own."
            )
    return {"transformers": text, "num_tokens": num_tokens, "token_dim": tokens.shape[2]}


def build_transformers(text: str) -> nn.Module:
    """The transformers model, with fresh weights, of a configuration's JSON. No code but transformers' own is run."""
    why = "This frozen encoder is a model of transformers, which is not installed"
    transformers = require("transformers", extra="vjepa", why=why)
    from huggingface_hub.errors import StrictDataclassError

    values = read_transformers(text)
    try:
        config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
        model: nn.Module = transformers.AutoModel.from_config(config)
    except (StrictDataclassError, TypeError, AttributeError, KeyError, ArithmeticError) as error:
        raise ValueError(f"transformers builds no model from the configuration {text[:200]}: {error}") from error
    return model


def tokens_of(encoder: nn.Module, images: Tensor) -> Tensor:
    """[N, P, d] of normalised images [N, C, S, S]: what a module returns, or its `last_hidden_state`."""
    with differentiable_attention():
        output = encoder(images)
    tokens: Tensor = output if isinstance(output, Tensor) else output.last_hidden_state
    return tokens.unsqueeze(1) if tokens.dim() == 2 else tokens


def _transformers_text(encoder: nn.Module) -> str:
    """The JSON of a transformers model's configuration; empty for any other module."""
    if not any(base.__module__.startswith("transformers.") for base in type(encoder).__mro__):
        return ""
    config: Any = encoder.config
    if config.model_type not in KINDS:
        return ""
    left_out = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "auto_map")
    values = {name: value for name, value in config.to_diff_dict().items() if name not in left_out}
    return json.dumps({**values, "model_type": config.model_type, "patch_size": config.patch_size})
