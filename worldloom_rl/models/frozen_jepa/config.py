"""Sizes and numbers of a JEPA over a frozen image encoder; the defaults are DINO-WM's, over DINOv2 small."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from worldloom_rl.config import WorldModelConfig, check_range

_LARGEST = 2**20  # number in a transformers configuration
_MOST_LAYERS = 512

# Kinds of transformers models that a file may name: plain vision transformers, which run no code but transformers' and
# fetch nothing.
KINDS = frozenset({
    "clip_vision_model", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "ijepa", "siglip_vision_model", "vit",
})  # fmt: skip

DINOV2_SMALL = json.dumps(
    {"model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14,
     "image_size": 518}
)  # fmt: skip
TINY_VIT = json.dumps(
    {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
     "patch_size": 8, "image_size": 32}
)  # fmt: skip


@dataclass(frozen=True)
class FrozenJEPAConfig(WorldModelConfig):
    """Every number of a JEPA over a frozen encoder."""

    # Encoder, frozen
    transformers: str = DINOV2_SMALL  # the JSON of a transformers configuration with its "model_type"; empty where the
    # encoder is a module of your own, which is then passed as `encoder=` whenever a model is built or loaded
    image_size: int = 196  # pixels, height and width, to which images are resized
    num_tokens: int = 196  # P of an image, the last ones that the encoder gives (class and register tokens come first)
    token_dim: int = 384  # d
    pixel_mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of pixels in [0, 1], one number or one a channel
    pixel_std: tuple[float, ...] = (0.229, 0.224, 0.225)

    # Predictor
    history: int = 3  # H, frames that a prediction sees
    vector_dim: int = 10  # channels of all observed vectors together, tiled over the tokens
    action_dim: int = 10  # channels of the action, as above
    layers: int = 6
    heads: int = 16
    head_dim: int = 64
    mlp_dim: int = 2048
    dropout: float = 0.1

    # Planning
    discount: float = 1.0  # γ
    horizon: int = 5  # actions of a plan
    execute: int = 5  # of them, those executed before the next plan
    iterations: int = 30
    num_samples: int = 300
    num_elites: int = 30
    init_std: float = 1.0  # of sampled actions, in flat units

    def __post_init__(self) -> None:
        for name, most in (
            ("image_size", 2**12), ("num_tokens", 2**16), ("token_dim", 2**16), ("history", 2**10),
            ("vector_dim", 2**16), ("action_dim", 2**16), ("layers", _MOST_LAYERS), ("heads", 2**10),
            ("head_dim", 2**16), ("mlp_dim", 2**17),
        ):  # fmt: skip
            check_range(name, getattr(self, name), 1, most)
        check_range("dropout", self.dropout, 0.0, 0.99)
        check_range("discount", self.discount, 0.0, 1.0)
        check_range("horizon", self.horizon, 1, 2**10)
        check_range("execute", self.execute, 1, self.horizon)
        check_range("iterations", self.iterations, 1, 2**16)
        check_range("num_samples", self.num_samples, 1, 2**20)
        check_range("num_elites", self.num_elites, 1, self.num_samples)
        check_range("init_std", self.init_std, 0.0, 1e3)
        for name, least in (("pixel_mean", -1e3), ("pixel_std", 1e-6)):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) not in (1, 3):
                raise ValueError(f"{name} must be one number or one a channel, got {values!r}.")
            for value in values:
                check_range(name, value, least, 1e3)
        if not isinstance(self.transformers, str):
            raise ValueError(f"transformers must be the JSON of a configuration, got {self.transformers!r}.")
        if self.transformers:
            _read(self.transformers)

    @classmethod
    def of_encoder(cls, encoder: nn.Module, *, image_size: int, **others: Any) -> FrozenJEPAConfig:
        """The configuration for an encoder, whose tokens are counted on a black image [1, 3, S, S].

        A transformers model of a kind in `KINDS` is described by its configuration, so that what is saved can be loaded
        without it; of its tokens, those of the patches are taken. Any other module has to be passed again.

        Args:
            others: the other fields, or other values.
        Raises ValueError if the encoder gives no tokens [1, P, d], or is not what its configuration builds.
        """
        device = next((x.device for x in encoder.parameters()), torch.device("cpu"))
        with torch.no_grad():
            tokens = tokens_of(encoder, torch.zeros(1, 3, image_size, image_size, device=device))
        if tokens.dim() != 3:
            raise ValueError(f"An encoder gives tokens [N, P, d] or vectors [N, d], not {tuple(tokens.shape)}.")
        given: dict[str, Any] = {"num_tokens": tokens.shape[1], **others}
        text = _describe(encoder)
        if text:
            given = {"num_tokens": (image_size // json.loads(text)["patch_size"]) ** 2, **others}
            with torch.device("meta"):
                built = {name: x.shape for name, x in build_transformers(text).state_dict().items()}
            if built != {name: x.shape for name, x in encoder.state_dict().items()}:
                raise ValueError(
                    f"transformers.AutoModel builds other tensors from this {type(encoder).__name__}'s configuration; "
                    "take the model that AutoModel gives, or wrap it in a module of your own."
                )
        return cls(transformers=text, image_size=image_size, token_dim=tokens.shape[2], **given)


def build_transformers(text: str) -> nn.Module:
    """The transformers model, with fresh weights, of a configuration's JSON. No code but transformers' own is run."""
    if find_spec("transformers") is None:
        raise ImportError(
            "This frozen encoder is a model of transformers, which is not installed: pip install 'worldloom-rl[vjepa]'."
        )
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    values = _read(text)
    try:
        config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
        model: nn.Module = transformers.AutoModel.from_config(config)
    except (StrictDataclassError, TypeError, AttributeError, KeyError, ArithmeticError) as error:
        raise ValueError(f"transformers builds no model from the configuration {text[:200]}: {error}") from error
    return model


def tokens_of(encoder: nn.Module, images: Tensor) -> Tensor:
    """[N, P, d] of normalised images [N, C, S, S]: what a module returns, or its `last_hidden_state`."""
    output = encoder(images)
    tokens: Tensor = output if isinstance(output, Tensor) else output.last_hidden_state
    return tokens.unsqueeze(1) if tokens.dim() == 2 else tokens


def _describe(encoder: nn.Module) -> str:
    """The JSON of a transformers model's configuration; empty for any other module."""
    if not any(base.__module__.startswith("transformers.") for base in type(encoder).__mro__):
        return ""
    config: Any = encoder.config
    if config.model_type not in KINDS:
        return ""
    left_out = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "auto_map")
    values = {name: value for name, value in config.to_diff_dict().items() if name not in left_out}
    return json.dumps({**values, "model_type": config.model_type, "patch_size": config.patch_size})


def _read(text: str) -> dict[str, Any]:
    """The configuration's fields. Raises ValueError for what is none, or for numbers beyond all reason."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The field transformers must be the JSON of a configuration: {error}.") from error
    if not isinstance(values, Mapping) or not isinstance(values.get("model_type"), str):
        raise ValueError("The field transformers must be the JSON of a configuration with its 'model_type'.")
    if values["model_type"] not in KINDS or "auto_map" in values:
        raise ValueError(
            f"A frozen encoder of transformers is one of {sorted(KINDS)}, without an 'auto_map', which asks for "
            f"foreign code; got {values['model_type']!r}. Pass any other as a module of your own."
        )
    for name, value in values.items():
        if isinstance(value, int | float) and not abs(value) <= (_MOST_LAYERS if "layers" in name else _LARGEST):
            raise ValueError(f"The transformers configuration has an absurd {name}, {value!r}.")
    return dict(values)


PRESETS = {
    "tiny": FrozenJEPAConfig(
        transformers=TINY_VIT, image_size=32, num_tokens=16, token_dim=32, vector_dim=4, action_dim=4, layers=2,
        heads=2, head_dim=16, mlp_dim=64, dropout=0.0, iterations=4, num_samples=64, num_elites=8,
    ),
    "dino_wm": FrozenJEPAConfig(),
}  # fmt: skip
