"""From observations to embeddings: an encoder an image, a perceptron for the vectors, and the projector behind them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from tensordict import NestedKey
from torch import Tensor, nn
from torchrl.data import TensorSpec

from worldloom_rl import ranks
from worldloom_rl.functional.precision import first_weight
from worldloom_rl.models.jepa.config import JEPAConfig
from worldloom_rl.models.jepa.vision_transformer import VisionTransformer

_COARSEST = 4  # rows or columns that the convolutions leave at least


class ConvolutionalEncoder(nn.Sequential):
    """[N, F] features of images [N, C, height, width]: halvings until 4 to 7 rows or columns are left, then flat."""

    def __init__(self, channels: int, height: int, width: int, depth: int) -> None:
        layers: list[nn.Module] = []
        outputs = depth
        while min(height, width) >= 2 * _COARSEST:
            layers += [nn.Conv2d(channels, outputs, 4, stride=2, padding=1), nn.GELU()]
            height, width = height // 2, width // 2
            channels, outputs = outputs, min(2 * outputs, 4 * depth)
        super().__init__(*layers, nn.Flatten())
        self.features = channels * height * width


class ImageEncoder(nn.Module):
    """[..., F] features of images [..., C, height, width], uint8 or real numbers in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: JEPAConfig, channels: int, height: int, width: int) -> None:
        super().__init__()
        for name in ("mean", "std"):
            numbers = getattr(config, f"pixel_{name}")
            if len(numbers) not in (1, channels):
                raise ValueError(
                    f"pixel_{name} has {len(numbers)} numbers, but images have {channels} channels; give one number, "
                    "or one a channel."
                )
            self.register_buffer(name, torch.tensor(numbers).reshape(-1, 1, 1), persistent=False)
        self.features: int
        self.network: nn.Module
        if config.encoder == "cnn":
            self.network = ConvolutionalEncoder(channels, height, width, config.cnn_channels)
            self.features = self.network.features
        else:
            self.network = VisionTransformer(
                channels, height, width, patch=config.patch_size, dim=config.encoder_dim, layers=config.encoder_layers,
                heads=config.encoder_heads, hidden=config.encoder_mlp,
            )  # fmt: skip
            self.features = config.encoder_dim

    def forward(self, image: Tensor) -> Tensor:
        lead = image.shape[:-3]
        flat = image.reshape(-1, *image.shape[-3:])
        unit = flat / 255.0 if flat.dtype == torch.uint8 else flat
        features: Tensor = self.network((unit.to(self.mean.dtype) - self.mean) / self.std)
        return features.reshape(*lead, -1)


class ObservationEncoder(nn.Module):
    """[..., F] features of an observation's leaves: all vectors through one perceptron, each image on its own."""

    def __init__(
        self, config: JEPAConfig, vectors: Mapping[NestedKey, TensorSpec], images: Mapping[NestedKey, TensorSpec]
    ) -> None:
        super().__init__()
        self.vector_keys = list(vectors)
        self.image_keys = list(images)
        width = sum(spec.shape.numel() for spec in vectors.values())
        self.vector = (
            nn.Sequential(
                nn.Linear(width, config.vector_dim), nn.GELU(), nn.Linear(config.vector_dim, config.vector_dim)
            )
            if vectors
            else None
        )
        self.images = nn.ModuleList(ImageEncoder(config, *spec.shape) for spec in images.values())
        encoders = [encoder for encoder in self.images if isinstance(encoder, ImageEncoder)]
        self.features = sum(encoder.features for encoder in encoders) + config.vector_dim * bool(vectors)

    def forward(self, observation: Mapping[NestedKey, Tensor]) -> Tensor:
        parts = [encoder(observation[key]) for key, encoder in zip(self.image_keys, self.images, strict=True)]
        if self.vector is not None:
            dtype = first_weight(self.vector).dtype
            vectors = torch.cat([observation[key].to(dtype) for key in self.vector_keys], -1)
            parts.append(self.vector(vectors))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class Projector(nn.Module):
    """Linear, batch norm, GELU, Linear on the last axis.

    The batch norm stands where an encoder's own last norm would keep a regularizer from shaping the embeddings' spread.
    It uses the batch's statistics, and updates its running ones, only when asked: acting and planning never do,
    whatever the module's mode. One that is frozen, whose weights take no gradient, uses its running ones always.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.expand = nn.Linear(inputs, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.contract = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, *, batch_statistics: bool = False) -> Tensor:
        hidden = self.expand(x)
        flat = hidden.reshape(-1, hidden.shape[-1])
        norm = self.norm
        batch_statistics = batch_statistics and norm.weight.requires_grad
        if batch_statistics and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        if batch_statistics and ranks.count() > 1:
            flat = _norm_over_ranks(norm, flat)
        else:
            flat = F.batch_norm(
                flat, norm.running_mean, norm.running_var, norm.weight, norm.bias, batch_statistics, 0.1, norm.eps
            )
        projected: Tensor = self.contract(F.gelu(flat.reshape(hidden.shape)))
        return projected


def _norm_over_ranks(norm: nn.BatchNorm1d, flat: Tensor) -> Tensor:
    """The batch norm of all processes' rows [N, D]; nn.SyncBatchNorm needs a GPU."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = ranks.moments(flat)
    rows = ranks.count() * len(flat)
    with torch.no_grad():
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), 0.1)
        norm.running_var.lerp_((variance * (rows / (rows - 1))).to(norm.running_var.dtype), 0.1)
    return (flat - mean) * (variance + norm.eps).rsqrt() * norm.weight + norm.bias


class ActionEncoder(nn.Module):
    """[..., D] embedding of flat actions [..., A]: a linear map to a few filters, then a perceptron of width 4 D.

    Before them the action's columns are brought to mean 0 and standard deviation 1 by the numbers of the data, which
    are saved with the weights: whoever plans gives actions as the environment's spec has them. See `normalize`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, filters: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.filters = nn.Linear(width, filters)
        self.expand = nn.Linear(filters, 4 * outputs)
        self.contract = nn.Linear(4 * outputs, outputs)

    def forward(self, action: Tensor) -> Tensor:
        action = (action - self.mean) / self.std
        embedding: Tensor = self.contract(F.silu(self.expand(self.filters(action))))
        return embedding

    def normalize(self, mean: Tensor, std: Tensor) -> None:
        """From now on actions are brought to mean 0 and std 1 by these numbers [A]; a column of std 0 is only moved."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))
