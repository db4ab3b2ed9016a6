"""Image augmentation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shift_images(image: Tensor, shift: Tensor, pad: int = 3) -> Tensor:
    """[B, C, S, S] images moved by whole pixels inside a border of repeated edge pixels.

    Args:
        image: [B, C, S, S], real-valued and square.
        shift: [B, 2] in {0, …, 2·pad}, last axis (x, y); `pad` leaves the image where it is.
        pad: border in pixels.
    Reference: random shift of DrQ-v2 (arXiv:2107.09645) as in tdmpc2 common/layers.py. Bilinear sampling is kept, since
    an integer crop differs from it by up to 1.7e-3 on the 0 … 255 scale.
    """
    batch, _, height, width = image.shape
    if height != width:
        raise ValueError(f"shift_images expects square images, got {height} x {width}; resize them before.")
    padded = F.pad(image, (pad, pad, pad, pad), mode="replicate")
    edge = 1.0 / (height + 2 * pad)
    line = torch.linspace(-1 + edge, 1 - edge, height + 2 * pad, device=image.device, dtype=image.dtype)[:height]
    x = line.expand(height, height)
    base = torch.stack((x, x.transpose(0, 1)), -1).expand(batch, height, height, 2)
    grid = base + (shift.to(image.dtype) * (2.0 / (height + 2 * pad))).view(batch, 1, 1, 2)
    return F.grid_sample(padded, grid, padding_mode="zeros", align_corners=False)
