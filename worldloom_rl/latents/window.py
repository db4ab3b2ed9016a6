"""The left-aligned window: the last frames and actions in buffers of fixed size, for predictors that are causal.

A window holds `length` frames, the first at index 0; what stands to the right of them is not read, because a causal
predictor's output at length − 1 does not depend on it. Frames are [..., H, N, D], actions [..., H, A], lengths [...].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Window(NamedTuple):
    """Frames, the action that leaves each of them, and how many frames there are; the last one's action is to come."""

    frames: Tensor
    actions: Tensor
    length: Tensor

    def leaving(self, action: Tensor) -> Window:
        """The window with the action [..., A] that leaves its last frame."""
        return self._replace(actions=_put(self.actions, self._last(), action))

    def arriving(self, tokens: Tensor) -> Window:
        """The window with one frame [..., N, D] more; a full one lets its first go."""
        size = self.actions.shape[-2]
        full = self.length >= size
        frames = _where(full, _moved(self.frames, -3), self.frames)
        actions = _where(full, _moved(self.actions, -2), self.actions)
        length = (self.length + 1).clamp(max=size)
        return Window(_put(frames, length - 1, tokens), actions, length)

    def recent(self, count: int) -> Window:
        """The window with at most its last `count` frames."""
        size = self.actions.shape[-2]
        dropped = (self.length - count).clamp(min=0)
        index = dropped.unsqueeze(-1) + torch.arange(size, device=dropped.device)
        inside, index = index < size, index.clamp(max=size - 1)

        def moved(buffer: Tensor) -> Tensor:
            shape = (*index.shape, *(1,) * (buffer.dim() - index.dim()))
            kept = buffer.take_along_dim(index.reshape(shape), index.dim() - 1)
            return kept * inside.reshape(shape)

        return Window(moved(self.frames), moved(self.actions), self.length - dropped)

    def padded(self, size: int) -> Window:
        """The window in buffers of `size` frames and actions, no fewer than its own, with zeros on the right."""
        more = size - self.actions.shape[-2]
        return Window(F.pad(self.frames, (0, 0, 0, 0, 0, more)), F.pad(self.actions, (0, 0, 0, more)), self.length)

    def with_last(self, tokens: Tensor) -> Window:
        """The window with tokens [..., N, D] for its last frame."""
        return self._replace(frames=_put(self.frames, self._last(), tokens))

    def read(self, outputs: Tensor) -> Tensor:
        """[..., N, D] of outputs [..., H, N, D], the one at the last frame."""
        index = self._last().reshape(*self.length.shape, 1, 1, 1).expand(*outputs.shape[:-3], 1, *outputs.shape[-2:])
        return outputs.gather(-3, index).squeeze(-3)

    def _last(self) -> Tensor:
        return (self.length - 1).clamp(min=0)


def first_frame(tokens: Tensor, size: int, width: int) -> Window:
    """The window of `size` frames and actions of that width that holds one frame, tokens [..., N, D], alone."""
    lead = tokens.shape[:-2]
    rest = tokens.new_zeros(*lead, size - 1, *tokens.shape[-2:])
    length = torch.ones(lead, dtype=torch.int64, device=tokens.device)
    return Window(torch.cat([tokens.unsqueeze(-3), rest], -3), tokens.new_zeros(*lead, size, width), length)


def choose(condition: Tensor, one: Window, other: Window) -> Window:
    """One window where the condition [...] holds, the other elsewhere."""
    return Window(*(_where(condition, left, right) for left, right in zip(one, other, strict=True)))


def sequence_windows(tokens: Tensor, actions: Tensor, starts: Tensor, size: int) -> Window:
    """The windows at every row of sequences, as `arriving` makes them row by row.

    Args:
        tokens: [B, T, N, D]; actions: [B, T, A] leaving each row; starts: bool [B, T] where a window begins anew; the
            first row always does.
    """
    batch, time = starts.shape
    rows = torch.arange(time, device=starts.device)
    begin = torch.where(starts, rows, torch.zeros_like(rows)).cummax(1).values  # first row of the current episode
    first = torch.maximum(begin, rows - (size - 1))
    length = rows - first + 1  # [B, T]
    index = first.unsqueeze(-1) + torch.arange(size, device=starts.device)  # [B, T, H]
    valid = index <= rows.unsqueeze(-1)
    batch_index = torch.arange(batch, device=starts.device).reshape(-1, 1, 1)
    index = index.clamp(max=time - 1)
    frames = tokens[batch_index, index] * valid[..., None, None]
    leaving = actions[batch_index, index] * (index < rows.unsqueeze(-1)).unsqueeze(-1)
    return Window(frames, leaving, length)


def _put(buffer: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """The buffer [..., H, *] with value [..., *] at index [...]."""
    lead = index.dim()
    place = torch.arange(buffer.shape[lead], device=index.device) == index.unsqueeze(-1)
    place = place.reshape(*place.shape, *(1,) * (buffer.dim() - lead - 1))
    return torch.where(place, value.unsqueeze(lead).to(buffer.dtype), buffer)


def _moved(buffer: Tensor, dim: int) -> Tensor:
    """One place to the left; the last place is zero."""
    size = buffer.shape[dim]
    kept = buffer.narrow(dim, 1, size - 1)
    return torch.cat([kept, torch.zeros_like(buffer.narrow(dim, 0, 1))], dim)


def _where(condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(condition.reshape((*condition.shape, *(1,) * (one.dim() - condition.dim()))), one, other)
