"""DreamerV3's image encoder and decoder: convolutions of stride one between poolings and upsamplings."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldloom_rl.functional.precision import at_least_float32, first_weight, precise
from worldloom_rl.kernels.transforms import transformed
from worldloom_rl.nn.block_linear import BlockLinear
from worldloom_rl.nn.mlp import NormedLinear
from worldloom_rl.nn.rms_norm import RMSNormSilu

_MULTIPLES = (2, 3, 4, 4)  # of the depth, the channels of each stage
_KERNEL = 5
_SPATIAL_BLOCKS = 8  # of the decoder's map from the deterministic state
_COARSEST = (3, 16)  # rows and columns that the four halvings may leave


class NormedConv(nn.Conv2d):
    """silu(RMSNorm over channels(pool(W ∗ x + b))): [N, C, H, W], zero-padded; `pool` halves height and width."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool) -> None:
        super().__init__(inputs, outputs, _KERNEL, padding=_KERNEL // 2)
        self.norm = RMSNormSilu(outputs)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.pool:
            x = F.max_pool2d(x, 2)
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def check_image_size(height: int, width: int) -> None:
    """Raise ValueError unless four halvings leave 3 to 16 rows and columns."""
    low, high = (16 * size for size in _COARSEST)
    if height % 16 or width % 16 or not (low <= height <= high and low <= width <= high):
        raise ValueError(
            f"Images must be {low} to {high} pixels high and wide, in multiples of 16; got {height} x {width}. "
            "Resize them in the environment."
        )


class ImageEncoder(nn.Sequential):
    """[..., C, H, W] images in [0, 255] → [..., E], the last feature map flattened row by row, channels last.

    Reference: dreamerv3 rssm.py, Encoder.
    """

    def __init__(self, channels: int, depth: int) -> None:
        widths = [channels, *(depth * multiple for multiple in _MULTIPLES)]
        super().__init__(*(NormedConv(i, o, pool=True) for i, o in pairwise(widths)))

    @staticmethod
    def width(height: int, width: int, depth: int) -> int:
        """E."""
        return (height // 16) * (width // 16) * depth * _MULTIPLES[-1]

    def forward(self, image: Tensor) -> Tensor:
        lead = image.shape[:-3]
        x = image.reshape(-1, *image.shape[-3:])
        if not transformed():  # torch.vmap knows no other layout
            x = x.contiguous(memory_format=torch.channels_last)
        dtype = first_weight(self).dtype
        x = (x.to(precise(dtype)) / 255 - 0.5).to(dtype)
        for stage in self:
            x = stage(x)
        return x.permute(0, 2, 3, 1).reshape(*lead, -1)


class ImageDecoder(nn.Module):
    """[..., C, H, W] means in [0, 1] from the deterministic and the flat stochastic state.

    Reference: dreamerv3 rssm.py, Decoder with bspace 8.
    """

    def __init__(
        self, deterministic: int, stochastic: int, units: int, channels: int, height: int, width: int, depth: int
    ) -> None:
        super().__init__()
        self.coarse = (height // 16, width // 16, depth * _MULTIPLES[-1])
        size = self.coarse[0] * self.coarse[1] * self.coarse[2]
        if self.coarse[2] % _SPATIAL_BLOCKS or deterministic % _SPATIAL_BLOCKS:
            raise ValueError(
                f"The image decoder needs a deterministic width that is a multiple of {_SPATIAL_BLOCKS} and an even "
                f"depth, got {deterministic} and {depth}."
            )
        self.from_deterministic = BlockLinear(deterministic, size, _SPATIAL_BLOCKS)
        self.from_stochastic = nn.Sequential(
            NormedLinear(stochastic, 2 * units, None, norm=RMSNormSilu), nn.Linear(2 * units, size)
        )
        self.norm = RMSNormSilu(self.coarse[2])
        widths = [self.coarse[2], *(depth * multiple for multiple in reversed(_MULTIPLES[:-1]))]
        self.stages = nn.ModuleList(NormedConv(i, o, pool=False) for i, o in pairwise(widths))
        self.output = nn.Conv2d(widths[-1], channels, _KERNEL, padding=_KERNEL // 2)

    def forward(self, deterministic: Tensor, stochastic: Tensor) -> Tensor:
        lead = deterministic.shape[:-1]
        height, width, channels = self.coarse
        x = self.from_deterministic(deterministic).reshape(
            -1, _SPATIAL_BLOCKS, height, width, channels // _SPATIAL_BLOCKS
        )
        x = x.permute(0, 2, 3, 1, 4).reshape(-1, height, width, channels)  # channels: block by block
        x = x + self.from_stochastic(stochastic).reshape(-1, height, width, channels)
        x = self.norm(x).permute(0, 3, 1, 2)
        for stage in self.stages:
            x = stage(F.interpolate(x, scale_factor=2, mode="nearest"))
        x = self.output(F.interpolate(x, scale_factor=2, mode="nearest"))
        return torch.sigmoid(at_least_float32(x)).reshape(*lead, *x.shape[1:])
