"""Self-attention over the tokens of a video, whose queries and keys are rotated by time, row and column."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldloom_rl.kernels.attention import attend

_BASE = 10_000.0  # slowest rotation, in tokens a radian


def video_rotation(position: Tensor, head_dim: int) -> Tensor:
    """[2, L, 3d] cosines and sines of the angles by which the first 3d channels of a head are rotated.

    d = 2 ⌊⌊head_dim / 3⌋ / 2⌋ channels follow the token's time, the next d its row, the next d its column; what is left
    is not rotated. A position 0 rotates nothing.

    The channels of a pair (2j, 2j + 1) should share one angle. In V-JEPA 2 they do not: the d / 2 frequencies stand
    there twice over, w₀ w₁ … w₀ w₁ …, instead of each twice in a row. The released weights were trained so, so this
    stays; it is not the rotation of other models.

    Args:
        position: real [L, 3], (time, row, column) of each token.
        head_dim: channels of one attention head, at least 6.
    Reference: V-JEPA 2 (Assran et al. 2025, arXiv:2506.09985), 3D-RoPE; vjepa2 src/models/utils/modules.py.
    """
    width = 2 * (head_dim // 3 // 2)
    if not width:
        raise ValueError(f"A head of {head_dim} channels cannot be rotated along three axes; it needs at least 6.")
    step = torch.arange(width // 2, dtype=torch.float32, device=position.device) / (width / 2)
    frequency = (_BASE**-step).repeat(2)
    angle = (position.float().unsqueeze(-1) * frequency).flatten(-2)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """[..., L, head_dim] queries or keys, rotated in pairs of neighbouring channels; see `video_rotation`."""
    cosine, sine = rotation.to(x.dtype)
    turned, rest = x[..., : cosine.shape[-1]], x[..., cosine.shape[-1] :]
    even, odd = turned.reshape(*turned.shape[:-1], -1, 2).unbind(-1)
    across = torch.stack([-odd, even], -1).flatten(-2)
    return torch.cat([turned * cosine + across * sine, rest], -1)


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotated queries and keys.

    Args:
        width: channels of a token, a multiple of `heads`.
    The parameters `qkv` and `proj` carry V-JEPA 2's names.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} attention heads cannot share {width} channels evenly.")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, L, width] from tokens x [B, L, width].

        Args:
            rotation: of `video_rotation`, for L tokens and heads of width / heads channels.
            mask: bool [L, L] or [B, 1, L, L], True where a token (row) may look at another (column).
        """
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = rotate(query, rotation), rotate(key, rotation)
        mixed = attend(query, key, value, mask)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2))
        return out
