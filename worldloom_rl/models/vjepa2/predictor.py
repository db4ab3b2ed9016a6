"""V-JEPA 2-AC's predictor: a transformer that tells the tokens of the next frame from frames, actions and poses.

Reference: Assran et al. 2025 (arXiv:2506.09985), section 3; facebookresearch/vjepa2 src/models/ac_predictor.py and the
losses of app/vjepa_droid/train.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldloom_rl.models.vjepa2.rotary_attention import RotaryAttention, video_rotation
from worldloom_rl.nn.transformer import frame_causal_mask

_EPSILON = 1e-6  # of the layer norms
_INITIAL_STD = 0.02


class FeedForward(nn.Module):
    """fc2(GELU(fc1(x)))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and feed-forward, each on normed tokens and added to them."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPSILON)
        self.attn = RotaryAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPSILON)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), rotation, mask)
        return x + self.mlp(self.norm2(x))


class VJEPA2ACPredictor(nn.Module):
    """Tokens of frames t + 1 from those of frames 0 … t, the actions taken there and the poses.

    Every frame's N tokens stand behind its conditioning tokens: action, pose and, if used, the camera's extrinsics. A
    token sees all tokens of its own frame and of earlier ones, so the output for a frame does not depend on what comes
    later, and a call on the first frames gives the same as one on all of them.

    Its parameters have the official names, so a released state dict loads as it is; `extrinsics_encoder` is there even
    where it is not used, and is frozen then.

    Args:
        token_dim: E, channels of the encoder's tokens.
        dim: P, of the predictor's.
        hidden: width of the feed-forward layers, by default 4 P.
        action_dim: A, numbers of an action and of a pose; extrinsics have one less.
        grid: rows and columns of a frame's tokens.
    """

    def __init__(
        self,
        *,
        token_dim: int,
        dim: int,
        depth: int,
        heads: int,
        grid: tuple[int, int],
        action_dim: int = 7,
        hidden: int | None = None,
        use_extrinsics: bool = False,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.head_dim = dim // heads
        self.use_extrinsics = use_extrinsics
        self.predictor_embed = nn.Linear(token_dim, dim)
        self.action_encoder = nn.Linear(action_dim, dim)
        self.state_encoder = nn.Linear(action_dim, dim)
        self.extrinsics_encoder = nn.Linear(action_dim - 1, dim).requires_grad_(use_extrinsics)
        self.predictor_blocks = nn.ModuleList(Block(dim, heads, hidden or 4 * dim) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(dim, eps=_EPSILON)
        self.predictor_proj = nn.Linear(dim, token_dim)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Weights N(0, 0.02²) cut at ±2, biases 0; what leaves layer l = 1, 2, … is divided by √(2 l)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_INITIAL_STD)
                nn.init.zeros_(module.bias)
        for layer, block in enumerate(self.predictor_blocks, 1):
            assert isinstance(block, Block)
            block.attn.proj.weight.div_(math.sqrt(2.0 * layer))
            block.mlp.fc2.weight.div_(math.sqrt(2.0 * layer))

    @property
    def conditioning(self) -> int:
        """K, conditioning tokens before each frame's own."""
        return 3 if self.use_extrinsics else 2

    def positions(self, frames: int) -> Tensor:
        """[T·(K + N), 3] time, row and column of every token of so many frames.

        Conditioning tokens have a time only. On a grid that is not square, columns are scaled to the rows' extent.
        """
        rows, columns = self.grid
        device = self.predictor_embed.weight.device
        time = torch.arange(frames, dtype=torch.float32, device=device)
        row = torch.arange(rows, dtype=torch.float32, device=device)
        column = torch.arange(columns, dtype=torch.float32, device=device) * (rows / columns)
        place = torch.cartesian_prod(row, column).reshape(rows * columns, 2)
        place = F.pad(place, (0, 0, self.conditioning, 0))
        times = time.repeat_interleave(len(place)).unsqueeze(-1)
        return torch.cat([times, place.repeat(frames, 1)], -1)

    def mask(self, frames: int) -> Tensor:
        """bool [L, L], L = T·(K + N): True where the column's frame is the row's or an earlier one."""
        rows, columns = self.grid
        return frame_causal_mask(frames, self.conditioning + rows * columns, self.predictor_embed.weight)

    def forward(self, tokens: Tensor, actions: Tensor, poses: Tensor, extrinsics: Tensor | None = None) -> Tensor:
        """[B, T, N, E] at index t the predicted tokens of frame t + 1.

        Args:
            tokens: [B, T, N, E], rows first.
            actions: [B, T, A], the one taken at each frame; poses: [B, T, A]; extrinsics: [B, T, A - 1].
        Raises ValueError if extrinsics are given without being used or the other way round, or for a wrong N.
        """
        frames, count = tokens.shape[1:3]
        if (extrinsics is not None) != self.use_extrinsics:
            given = "none were given" if extrinsics is None else "they were given"
            raise ValueError(f"The predictor was built with use_extrinsics={self.use_extrinsics}, but {given}.")
        if count != self.grid[0] * self.grid[1]:
            raise ValueError(f"A frame has {self.grid[0]} x {self.grid[1]} tokens here, but {count} were given.")
        given_conditions = [self.action_encoder(actions), self.state_encoder(poses)]
        if extrinsics is not None:
            given_conditions.append(self.extrinsics_encoder(extrinsics))
        x = torch.cat([torch.stack(given_conditions, 2), self.predictor_embed(tokens)], 2).flatten(1, 2)
        rotation = video_rotation(self.positions(frames), self.head_dim)
        mask = self.mask(frames)
        for block in self.predictor_blocks:
            x = block(x, rotation, mask)
        x = x.unflatten(1, (frames, -1))[:, :, self.conditioning :]
        out: Tensor = self.predictor_proj(self.predictor_norm(x))
        return out


def normalise_tokens(tokens: Tensor) -> Tensor:
    """Each token with mean 0 and variance 1 over its channels; what encoder and predictor give is compared so."""
    return F.layer_norm(tokens, tokens.shape[-1:])


class ACTerms(NamedTuple):
    """What the AC loss is made of; S rollout steps."""

    teacher_forced: Tensor  # [B, T - 1, N, E] predictions of frames 1 … T - 1 from the true ones, normalised
    rolled_out: Tensor  # [B, S, N, E] predictions of frames 1 … S from frame 0 and earlier predictions, normalised
    teacher_forcing_loss: Tensor  # [B, T - 1]
    rollout_loss: Tensor  # [B, S]


def ac_terms(
    predictor: VJEPA2ACPredictor,
    tokens: Tensor,
    actions: Tensor,
    poses: Tensor,
    extrinsics: Tensor | None = None,
    *,
    rollout_steps: int = 2,
    exponent: float = 1.0,
) -> ACTerms:
    """Errors |ẑ - z|^p / p of teacher-forced and of rolled-out predictions, averaged over tokens and channels.

    The loss is the sum of both terms' means. Gradients flow through the whole rollout, whose poses are the true ones.

    Args:
        tokens: [B, T, N, E] of the encoder, normalised.
        actions: [B, T - 1, A]; poses: [B, T, A]; extrinsics: [B, T, A - 1].
        rollout_steps: S, at least 1 and at most T - 1.
        exponent: p.
    """
    steps = tokens.shape[1] - 1
    if not 1 <= rollout_steps <= steps:
        raise ValueError(f"A rollout of {rollout_steps} steps needs 1 to {steps} of them in windows of {steps + 1}.")

    def predict(frames: Tensor) -> Tensor:
        count = frames.shape[1]
        camera = None if extrinsics is None else extrinsics[:, :count]
        return normalise_tokens(predictor(frames, actions[:, :count], poses[:, :count], camera))

    def error(predicted: Tensor) -> Tensor:
        target = tokens[:, 1 : 1 + predicted.shape[1]]
        return (predicted - target).abs().pow(exponent).mean((-2, -1)) / exponent

    teacher_forced = predict(tokens[:, :-1])
    sequence = torch.cat([tokens[:, :1], teacher_forced[:, :1]], 1)
    for _ in range(rollout_steps - 1):
        sequence = torch.cat([sequence, predict(sequence)[:, -1:]], 1)
    rolled_out = sequence[:, 1:]
    return ACTerms(teacher_forced, rolled_out, error(teacher_forced), error(rolled_out))
