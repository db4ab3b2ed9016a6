"""A JEPA over a frozen image encoder: only a predictor of patch tokens is trained, as in DINO-WM.

Reference: Zhou et al. 2024, DINO-WM (arXiv:2411.04983), for the model, its loss and its planning cost. It is written
from the paper's description and not compared with its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.latents.window import sequence_windows
from worldloom_rl.models.frozen_jepa.config import FrozenJEPAConfig
from worldloom_rl.models.frozen_jepa.encoders import build_transformers, tokens_of
from worldloom_rl.models.jepa.policy import make_policy
from worldloom_rl.nn.transformer import Drop, TransformerBlock, dropout, frame_causal_mask, keep_all
from worldloom_rl.noise import Noise
from worldloom_rl.specs.observations import is_image, sort_leaves
from worldloom_rl.world_model import Latent
from worldloom_rl.world_model.windowed import WindowedJEPA, latent_of, loss_values


class PatchPredictor(nn.Module):
    """[B, L, P, W] from token frames [B, L, P, W], each from its own frame and those before it.

    Every pair of a frame's and a patch's place has a learned position.
    """

    def __init__(
        self, frames: int, tokens: int, width: int, *, layers: int, heads: int, head_dim: int, hidden: int
    ) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(frames, tokens, width))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, hidden, head_width=head_dim, bias=False, eps=1e-5) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, drop: Drop = keep_all) -> Tensor:
        frames, tokens = x.shape[1:3]
        mask = frame_causal_mask(frames, tokens, x)
        x = drop(x + self.position[:frames]).flatten(1, 2)
        for block in self.blocks:
            x = block(x, mask, drop)
        out: Tensor = self.norm(x).unflatten(1, (frames, tokens))
        return out


@dataclass(frozen=True)
class SourceDistance:
    """[..., 1] mean squared differences of tokens [..., P, D] and a goal's: of the image's channels, which come first,
    plus of the vectors'."""

    image_channels: int

    def __call__(self, tokens: Tensor, goal: Tensor) -> Tensor:
        error = (tokens - goal).square().mean(-2)
        parts = (error[..., : self.image_channels], error[..., self.image_channels :])
        return torch.stack([part.mean(-1) for part in parts if part.shape[-1]]).sum(0).unsqueeze(-1)


class FrozenJEPA(WindowedJEPA):
    """Plans to a goal observation with the tokens of an image encoder that is not trained; needs no rewards.

    Tokens are the encoder's, and beside them, on every token, the embedded vectors. See `WindowedJEPA` for the latent.
    The encoder is either described by the configuration, a model of transformers (the extra `vjepa`), or a module of
    your own that maps images [N, 3, S, S] to tokens [N, P, d]:

        config = FrozenJEPAConfig.of_encoder(module, image_size=64)
        model = FrozenJEPA(config, observation_spec, action_spec, encoder=module)
        model.save_pretrained("model")
        model = AutoWorldModel.from_pretrained("model", encoder=module)  # of transformers: without encoder

    Its weights are saved with the model, frozen and kept in evaluation mode.

    Args:
        config: sizes and numbers.
        observation_spec: one image [3, height, width] (uint8, or real numbers in [0, 1]) and any real vectors [n].
        action_spec: one or several keys, see `ActionSpace`. With a frame skip of k an action is a block [k · A].
        encoder: whose weights are taken; by default the one that the configuration describes, with fresh ones.

    `compute_loss` gives "prediction".
    """

    model_type = "frozen_jepa"
    config: FrozenJEPAConfig
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        config: FrozenJEPAConfig,
        observation_spec: Composite,
        action_spec: Composite,
        key_map: Mapping[str, NestedKey] | None = None,
        *,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__(config, observation_spec, action_spec, key_map, history=config.history)
        vectors, images = sort_leaves(
            {key: observation_spec[key] for key in self.frame_keys},
            reader="A frozen encoder",
            takes="one RGB image [3, height, width] and real vectors [n]",
            image=lambda leaf: is_image(leaf) and leaf.shape[0] == 3,
        )
        if len(images) != 1:
            raise ValueError(f"A frozen encoder reads one RGB image; the observation spec has {list(images)}.")
        (self.image_key,), self.vector_keys = images, tuple(vectors)
        if encoder is None and not config.transformers:
            raise ValueError(
                "This model's frozen encoder is a module of your own, which its configuration does not describe: pass "
                "it again as encoder=, to the model or to AutoWorldModel.from_pretrained."
            )
        self.encoder = (build_transformers(config.transformers) if encoder is None else encoder).requires_grad_(False)
        self.encoder.eval()
        for name in ("pixel_mean", "pixel_std"):
            self.register_buffer(name, torch.tensor(getattr(config, name)).reshape(-1, 1, 1), persistent=False)
        numbers = sum(leaf.shape.numel() for leaf in vectors.values())
        self.vector_encoder = nn.Linear(numbers, config.vector_dim) if vectors else None
        self.action_encoder = nn.Linear(self.action_space.width, config.action_dim)
        width = config.token_dim + (config.vector_dim if vectors else 0)
        self.predictor = PatchPredictor(
            config.history, config.num_tokens, width + config.action_dim,
            layers=config.layers, heads=config.heads, head_dim=config.head_dim, hidden=config.mlp_dim,
        )  # fmt: skip
        self.describe_latent(config.num_tokens, width)
        self.distance = SourceDistance(config.token_dim)

    @staticmethod
    def default_specs() -> tuple[Composite, Composite]:
        """RGB images of 64 x 64 pixels, a vector "proprio" [2] and 2 actions in [-1, 1]."""
        return (
            Composite(
                pixels=Unbounded((3, 64, 64), dtype=torch.uint8, device="cpu"), proprio=Unbounded((2,), device="cpu")
            ),
            Composite(action=Bounded(-1.0, 1.0, shape=(2,), dtype=torch.float32, device="cpu")),
        )

    @property
    def undescribed_modules(self) -> dict[str, nn.Module]:
        """The encoder, where it is a module of the user's own."""
        return {} if self.config.transformers else {"encoder": self.encoder}

    def train(self, mode: bool = True) -> FrozenJEPA:
        """Training or evaluation mode; the frozen encoder stays in evaluation."""
        super().train(mode)
        self.encoder.eval()
        return self

    # ------------------------------------------------------------------ the tensor core

    @torch.no_grad()
    def see(self, image: Tensor) -> Tensor:
        """[..., P, d] the frozen encoder's tokens of images [..., 3, height, width]."""
        config, lead = self.config, image.shape[:-3]
        flat = image.reshape(-1, *image.shape[-3:])
        scaled = flat.to(self.pixel_mean.dtype) / (255.0 if flat.dtype == torch.uint8 else 1.0)
        size = (config.image_size, config.image_size)
        if scaled.shape[-2:] != size:
            scaled = F.interpolate(scaled, size, mode="bilinear", antialias=True)
        tokens = tokens_of(self.encoder, ((scaled - self.pixel_mean) / self.pixel_std).to(self.dtype))
        if tokens.dim() != 3 or tokens.shape[1] < config.num_tokens or tokens.shape[2] != config.token_dim:
            raise ValueError(
                f"The frozen encoder gives tokens {tuple(tokens.shape[1:])} an image, but the configuration says "
                f"{(config.num_tokens, config.token_dim)}; make it with FrozenJEPAConfig.of_encoder."
            )
        return tokens[:, -config.num_tokens :].reshape(*lead, config.num_tokens, config.token_dim)

    def embed(self, observation: Mapping[NestedKey, Tensor]) -> Tensor:
        tokens = self.see(observation[self.image_key])
        if self.vector_encoder is None:
            return tokens
        vectors = torch.cat([observation[key].to(tokens.dtype) for key in self.vector_keys], -1)
        return torch.cat([tokens, _tiled(self.vector_encoder(vectors), tokens)], -1)

    def predict_tokens(self, frames: Tensor, actions: Tensor, noise: Noise | None = None) -> Tensor:
        lead = frames.shape[:-3]
        drop = keep_all if noise is None else dropout(noise, self.config.dropout)
        x = torch.cat([frames, _tiled(self.action_encoder(actions), frames)], -1)
        predicted = self.predictor(x.reshape(-1, *x.shape[-3:]), drop)[..., : frames.shape[-1]]
        return predicted.reshape(*lead, *predicted.shape[1:])

    def latent_features(self, latent: Latent) -> Tensor:
        """[..., 2 D] the means of the tokens and of the goal's."""
        return torch.cat([latent["tokens"].mean(-2), latent["goal"].mean(-2)], -1)

    # ------------------------------------------------------------------ acting and learning

    def make_policy(self, **options: Any) -> TensorDictSequential:
        """Observes, plans to the goal and acts, for any collector; the options are those of `jepa.make_policy`."""
        return make_policy(self, **options)

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"prediction": 1.0}

    def compute_loss(
        self, batch: TensorDictBase, noise: Noise | None = None
    ) -> tuple[dict[str, Tensor], TensorDictBase]:
        """The term "prediction" [B, windows, predictions] from [B, T] rows, T ≥ 2; every H + 1 in a row are a window.

        Squared errors, averaged over tokens and channels; targets have no gradient. Predictions from windows in which
        another episode starts count zero, and the others are scaled so that the mean is that over what counts. The
        posterior holds the latents [B, T, …], each goal being the last row's tokens. Dropout is active in training mode
        only.
        """
        values = loss_values(self, batch)
        tokens = self.embed({key: values[key] for key in self.frame_keys})
        action = self.read_previous_action(batch)[:, 1:]
        starts = values[self.key_map.is_init].squeeze(-1)
        frames = min(self.config.history + 1, tokens.shape[1])
        if frames < 2:
            raise ValueError(f"Learning needs sequences of at least 2 rows, got {tokens.shape[1]}.")
        windows = tokens.unfold(1, frames, 1).movedim(-1, 2)  # [B, W, frames, P, D]
        actions = action.unfold(1, frames - 1, 1).movedim(-1, 2)
        predicted = self.predict_tokens(windows[:, :, :-1], actions, (noise or self.noise) if self.training else None)
        error = (predicted - windows[:, :, 1:].detach()).square().mean((-2, -1))
        whole = ~starts.unfold(1, frames, 1)[..., 1:].any(-1, keepdim=True).expand_as(error)
        share = whole.to(error.dtype).mean()
        losses = {"prediction": torch.where(whole, error, torch.zeros_like(error)) / share.clamp(min=1e-6)}
        leaving = F.pad(action, (0, 0, 0, 1))  # the action that leaves the last row is not known yet
        window = sequence_windows(tokens, leaving, starts, self.config.history)
        latent = latent_of(window, tokens, tokens[:, -1:].expand_as(tokens))
        return losses, self.write_latent(TensorDict({}, batch_size=batch.batch_size, device=batch.device), latent)


def _tiled(vector: Tensor, tokens: Tensor) -> Tensor:
    """[..., P, C] the vector [..., C] beside each of the tokens [..., P, D]."""
    return vector.unsqueeze(-2).expand(*tokens.shape[:-1], -1)
