"""The V-JEPA 2 video encoder, over the one of transformers (the extra `vjepa`).

Reference: Assran et al. 2025 (arXiv:2506.09985); facebookresearch/vjepa2 src/models/vision_transformer.py.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from worldloom_rl.extras import require
from worldloom_rl.kernels.attention import differentiable_attention
from worldloom_rl.models.vjepa2.predictor import normalise_tokens

if TYPE_CHECKING:
    from transformers import VJEPA2Config

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def require_transformers() -> ModuleType:
    """The module transformers. Raises ImportError that names the extra, where it is not installed."""
    why = "V-JEPA 2 encoders need transformers, which is not installed"
    return require("transformers", extra="vjepa", why=why)


class VJEPA2Encoder(nn.Module):
    """Tokens of single frames, or of a video, by a V-JEPA 2 vision transformer.

        encoder = VJEPA2Encoder(transformers.VJEPA2Config(crop_size=256, num_hidden_layers=24))  # fresh weights
        encoder = VJEPA2Encoder.from_pretrained("path/to/vjepa2-vitg-fpc64-256")
        encoder(frames)  # [..., N, E] from [..., 3, 256, 256]

    transformers' positions need square images of `crop_size`.

    Args:
        config: sizes, a `transformers.VJEPA2Config`.
        masked_predictor: keep the predictor of pre-training too, for `predict_masked`; planning has no use for it.
    Raises ImportError where transformers is missing.
    """

    encoder: Any  # transformers' modules, which are not typed as what they are
    mean: Tensor
    std: Tensor

    def __init__(self, config: VJEPA2Config, *, masked_predictor: bool = False) -> None:
        super().__init__()
        self._take(require_transformers().VJEPA2Model(config), masked_predictor)

    @classmethod
    def from_pretrained(cls, directory: str | Path, *, masked_predictor: bool = False) -> VJEPA2Encoder:
        """The encoder in a directory that transformers' `save_pretrained` or `worldloom import vjepa2` wrote.

        Only safetensors are read. A name on the hub, such as "facebook/vjepa2-vitl-fpc64-256", is passed on to
        transformers, which downloads it.
        """
        model = require_transformers().VJEPA2Model.from_pretrained(str(directory), use_safetensors=True)
        return cls.of_model(model, masked_predictor=masked_predictor)

    @classmethod
    def of_model(cls, model: nn.Module, *, masked_predictor: bool = False) -> VJEPA2Encoder:
        """The encoder of a `transformers.VJEPA2Model`, whose weights it shares."""
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder._take(model, masked_predictor)
        return encoder

    def _take(self, model: Any, masked_predictor: bool) -> None:
        self.config = model.config
        self.encoder = model.encoder
        self.masked_predictor = model.predictor if masked_predictor else None
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @property
    def token_dim(self) -> int:
        """E, channels of a token."""
        return int(self.config.hidden_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's tokens."""
        side = self.config.crop_size // self.config.patch_size
        return side, side

    def forward(self, frames: Tensor) -> Tensor:
        """[..., N, E] normalised tokens of frames [..., 3, S, S], each encoded alone.

        A frame fills a whole tubelet by being repeated, as V-JEPA 2-AC was trained; the tokens come out with mean 0 and
        variance 1 over their channels.

        Args:
            frames: uint8 in [0, 255], or real in [0, 1].
        """
        lead, size = frames.shape[:-3], self.config.crop_size
        if tuple(frames.shape[-3:]) != (3, size, size):
            raise ValueError(
                f"This encoder reads images [3, {size}, {size}], got {tuple(frames.shape[-3:])}; resize them before."
            )
        scaled = frames.to(self.mean.dtype) / 255.0 if frames.dtype == torch.uint8 else frames.to(self.mean.dtype)
        image = ((scaled - self.mean) / self.std).reshape(-1, 1, *frames.shape[-3:])
        tokens = self.video_tokens(image.expand(-1, self.config.tubelet_size, -1, -1, -1))
        return normalise_tokens(tokens).reshape(*lead, *tokens.shape[1:])

    def video_tokens(self, video: Tensor, kept: Tensor | None = None) -> Tensor:
        """[B, L, E] tokens of a video [B, T, 3, S, S] that is already normalised; not normalised themselves.

        Args:
            kept: int64 [B, L] places of the tokens that the transformer sees, others being dropped before it, as in
                pre-training; by default it sees all, in order of time, row and column.
        """
        if kept is None:
            with differentiable_attention():
                tokens: Tensor = self.encoder(pixel_values_videos=video).last_hidden_state
            return tokens
        embedded = self.encoder.embeddings(video)
        x = embedded.take_along_dim(kept.unsqueeze(-1), 1)
        for layer in self.encoder.layer:
            x = layer(x, kept)[0]
        tokens = self.encoder.layernorm(x)
        return tokens

    def predict_masked(self, context: Tensor, context_places: Tensor, target_places: Tensor) -> Tensor:
        """[B, M, E] what the masked predictor of pre-training tells of the tokens at other places.

        Args:
            context: [B, L, E] of `video_tokens`.
            context_places: int64 [B, L]; target_places: int64 [B, M].
        """
        if self.masked_predictor is None:
            raise ValueError(
                "This encoder was built without its masked predictor; build it with masked_predictor=True."
            )
        # transformers takes the context from the tokens of all places.
        places = int(max(context_places.max(), target_places.max())) + 1
        whole = context.new_zeros(context.shape[0], places, context.shape[-1])
        whole = whole.scatter(1, context_places.unsqueeze(-1).expand_as(context), context)
        predicted: Tensor = self.masked_predictor(
            encoder_hidden_states=whole, context_mask=[context_places], target_mask=[target_places]
        ).last_hidden_state
        return predicted
