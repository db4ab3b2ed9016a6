"""Deviations of sampled sequences from their mean, in units of the standard deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldloom_rl.noise import Noise

# [H, …] the deviations of that shape, with dtype and device of the tensor.
Draws = Callable[[tuple[int, ...], Tensor, Noise], Tensor]


def white(shape: tuple[int, ...], like: Tensor, noise: Noise) -> Tensor:
    """Standard normal, each step by itself."""
    return noise.normal("sample", shape, like)


def uniform(shape: tuple[int, ...], like: Tensor, noise: Noise) -> Tensor:
    """Uniform from −1 to 1, each step by itself."""
    return 2.0 * noise.uniform("sample", shape, like) - 1.0


@dataclass(frozen=True)
class Coloured:
    """Standard normal at every step, with a power spectrum of 1 / frequency^exponent along the sequence.

    The least frequency stands in for frequency 0. Exponent 0 is white, 2 wanders as a random walk does.
    Reference: Timmer and König 1995; for planning Pinneri et al. 2020 (arXiv:2008.06389).
    """

    exponent: float

    def __call__(self, shape: tuple[int, ...], like: Tensor, noise: Noise) -> Tensor:
        horizon = shape[0]
        frequency = torch.fft.rfftfreq(horizon, dtype=like.dtype, device=like.device).clamp(min=1 / horizon)
        scale = frequency ** (-self.exponent / 2)
        # A frequency between 0 and the highest stands for itself and its mirror image.
        twice = torch.full_like(scale, 2.0)
        twice[0] = 1.0
        if horizon % 2 == 0:
            twice[-1] = 1.0
        scale = scale * (horizon / (twice * scale.square()).sum()).sqrt()
        spectrum = torch.fft.rfft(white(shape, like, noise), dim=0)
        coloured: Tensor = torch.fft.irfft(spectrum * scale.reshape(-1, *[1] * (len(shape) - 1)), n=horizon, dim=0)
        return coloured
