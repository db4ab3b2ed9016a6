"""Sizes and numbers of a JEPA over a frozen image encoder; the defaults are DINO-WM's, over DINOv2 small."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worldloom_rl.config import Json, WorldModelConfig, check_range, ranged
from worldloom_rl.models.frozen_jepa.transformers_text import read_transformers

if TYPE_CHECKING:
    from torch import nn

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
    image_size: int = ranged(196, 1, 2**12)  # pixels, height and width, to which images are resized
    # P of an image, the last ones that the encoder gives (class and register tokens come first)
    num_tokens: int = ranged(196, 1, 2**16)
    token_dim: int = ranged(384, 1, 2**16)  # d
    # of pixels in [0, 1], one number or one a channel
    pixel_mean: tuple[float, ...] = ranged((0.485, 0.456, 0.406), -1e3, 1e3, lengths=(1, 3))
    pixel_std: tuple[float, ...] = ranged((0.229, 0.224, 0.225), 1e-6, 1e3, lengths=(1, 3))

    # Predictor
    history: int = ranged(3, 1, 2**10)  # H, frames that a prediction sees
    vector_dim: int = ranged(10, 1, 2**16)  # channels of all observed vectors together, tiled over the tokens
    action_dim: int = ranged(10, 1, 2**16)  # channels of the action, as above
    layers: int = ranged(6, 1, 512)
    heads: int = ranged(16, 1, 2**10)
    head_dim: int = ranged(64, 1, 2**16)
    mlp_dim: int = ranged(2048, 1, 2**17)
    dropout: float = ranged(0.1, 0.0, 0.99)

    # Planning
    discount: float = ranged(1.0, 0.0, 1.0)  # γ
    horizon: int = ranged(5, 1, 2**10)  # actions of a plan
    execute: int = ranged(5, 1, 2**10)  # of them, those executed before the next plan
    iterations: int = ranged(30, 1, 2**16)
    num_samples: int = ranged(300, 1, 2**20)
    num_elites: int = ranged(30, 1, 2**20)
    init_std: float = ranged(1.0, 0.0, 1e3)  # of sampled actions, in flat units

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("execute", self.execute, 1, self.horizon)
        check_range("num_elites", self.num_elites, 1, self.num_samples)
        for name in ("pixel_mean", "pixel_std"):
            if len(getattr(self, name)) == 2:
                raise ValueError(f"{name} must be one number or one a channel, got {getattr(self, name)!r}.")
        if self.transformers:
            read_transformers(self.transformers)

    @classmethod
    def of_encoder(cls, encoder: nn.Module, *, image_size: int, **others: Json) -> FrozenJEPAConfig:
        """The configuration for an encoder, whose tokens are counted on a black image [1, 3, S, S].

        A transformers model of a kind in `KINDS` is described by its configuration, so that what is saved can be loaded
        without it; of its tokens, those of the patches are taken. Any other module has to be passed again.

        Args:
            others: the other fields, or other values.
        Raises ValueError if the encoder gives no tokens [1, P, d], or is not what its configuration builds.
        """
        from worldloom_rl.models.frozen_jepa.encoders import describe  # here, so that a configuration needs no torch

        return cls(**{"image_size": image_size, **describe(encoder, image_size), **others})


PRESETS = {
    "tiny": FrozenJEPAConfig(
        transformers=TINY_VIT, image_size=32, num_tokens=16, token_dim=32, vector_dim=4, action_dim=4, layers=2,
        heads=2, head_dim=16, mlp_dim=64, dropout=0.0, iterations=4, num_samples=64, num_elites=8,
    ),
    "dino_wm": FrozenJEPAConfig(),
}  # fmt: skip
