"""Images as a grid of discrete tokens, and back."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from worldloom_rl.functional.precision import at_least_float32, first_weight, precise
from worldloom_rl.latents import CodebookLatent
from worldloom_rl.nn.initialise import initialise_layers
from worldloom_rl.nn.rms_norm import RMSNormSilu

_KERNEL = 4  # of the convolutions that halve or double height and width
_WIDEST = 8  # the channels double at each halving, up to so many times the depth


def _channels(depth: int, halvings: int) -> list[int]:
    return [depth * min(2**stage, _WIDEST) for stage in range(halvings)]


class _Position(nn.Module):
    """silu(RMSNorm over channels) of [B, C, H, W]: each position by itself, so that a token stays local."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNormSilu(channels)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class Tokenizer(nn.Module):
    """A convolutional encoder, a codebook and a convolutional decoder.

    Args:
        channels, height, width: of the images.
        depth: channels after the first convolution.
        halvings: convolutions of stride 2; a token stands for a square of 2^halvings pixels a side.
        space: the codebook, for `grid(height, width, halvings)` tokens.
    """

    def __init__(
        self, channels: int, height: int, width: int, *, depth: int, halvings: int, space: CodebookLatent
    ) -> None:
        super().__init__()
        self.space = space
        self.rows, self.columns = self.grid(height, width, halvings)
        stages = _channels(depth, halvings)
        encoder: list[nn.Module] = []
        for inputs, outputs in pairwise([channels, *stages]):
            encoder += [nn.Conv2d(inputs, outputs, _KERNEL, stride=2, padding=1), _Position(outputs)]
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(stages[-1], space.width, 1))
        decoder: list[nn.Module] = [nn.Conv2d(space.width, stages[-1], 1)]
        for inputs, outputs in pairwise([*reversed(stages), channels]):
            decoder += [_Position(inputs), nn.ConvTranspose2d(inputs, outputs, _KERNEL, stride=2, padding=1)]
        self.decoder = nn.Sequential(*decoder)
        # Else untrained vectors are alike, and one code stands for all of them.
        initialise_layers(self.encoder)

    @staticmethod
    def grid(height: int, width: int, halvings: int) -> tuple[int, int]:
        """Rows and columns of tokens. Raises ValueError if the image cannot be halved so often."""
        side = 2**halvings
        if height % side or width % side:
            raise ValueError(
                f"Images of {height} x {width} pixels cannot be halved {halvings} times: resize them to multiples of "
                f"{side}, or lower halvings."
            )
        return height // side, width // side

    def encode(self, image: Tensor) -> Tensor:
        """[..., N, D] vectors, row by row, from images [..., C, H, W] in [0, 255]."""
        lead = image.shape[:-3]
        dtype = first_weight(self.encoder).dtype
        x = (image.reshape(-1, *image.shape[-3:]).to(precise(dtype)) / 255 - 0.5).to(dtype)
        return self.encoder(x).flatten(-2).transpose(-2, -1).reshape(*lead, self.space.count, self.space.width)

    def decode(self, tokens: Tensor) -> Tensor:
        """[..., C, H, W] images in [0, 1] from tokens [..., N, D]."""
        lead = tokens.shape[:-2]
        x = tokens.reshape(-1, *tokens.shape[-2:]).transpose(-2, -1)
        x = self.decoder(x.reshape(-1, self.space.width, self.rows, self.columns))
        return torch.sigmoid(at_least_float32(x)).reshape(*lead, *x.shape[1:])
