"""One flat tensor for any action space: what the tensor core, planners and losses see of an action.

Continuous dimensions are mapped from their bounds to [-1, 1]; integer and one-hot actions become one-hot groups.
Several action keys stand side by side in the order of the spec.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, MultiOneHot, OneHot, TensorSpec

from worldloom_rl.functional.precision import PreciseBuffers
from worldloom_rl.kernels.one_hot import one_hot

_WIDEST = 2**16  # numbers of a flat action


@dataclass(frozen=True)
class ActionSegment:
    """One action key's place in the flat action.

    `categories` is empty for a continuous key, else the number of classes of each of its categoricals.
    """

    key: NestedKey
    shape: torch.Size
    dtype: torch.dtype
    start: int
    stop: int
    categories: tuple[int, ...]
    one_hot: bool


class ActionSpace(PreciseBuffers):
    """The flat view [..., A] of an action spec. Cast to fewer digits, it keeps its bounds in float32.

    Attributes:
        dtype: of flat actions, what the model that reads them was cast to.
        keys: the action keys, in order.
        width: A.
        continuous: bool [A], True where the flat action is a real number in [-1, 1].
        groups: (start, stop) of every one-hot group.
    """

    keys: tuple[NestedKey, ...]
    continuous: Tensor
    low: Tensor
    high: Tensor
    center: Tensor
    half_range: Tensor

    def __init__(self, spec: TensorSpec) -> None:
        super().__init__()
        if not isinstance(spec, Composite):
            raise TypeError(f"The action spec must be a Composite with its keys, got {type(spec).__name__}.")
        segments: list[ActionSegment] = []
        lows: list[float] = []
        highs: list[float] = []
        self.groups: list[tuple[int, int]] = []
        for key, leaf in spec.items(include_nested=True, leaves_only=True):
            start = len(lows)
            if start + leaf.shape.numel() > _WIDEST:
                raise ValueError(f"The action {key!r} has the absurd shape {tuple(leaf.shape)}.")
            categories, one_hot = _categories(key, leaf)
            if start + sum(categories) > _WIDEST:
                raise ValueError(f"The action {key!r} has absurdly many classes, {sum(categories)} in all.")
            if categories:
                for count in categories:
                    self.groups.append((len(lows), len(lows) + count))
                    lows += [-1.0] * count
                    highs += [1.0] * count
            else:
                low, high = (bound.expand(leaf.shape).flatten().tolist() for bound in _bounds(key, leaf))
                lows += low
                highs += high
            segments.append(ActionSegment(key, leaf.shape, leaf.dtype, start, len(lows), categories, one_hot))
        if not segments:
            raise ValueError("The action spec has no leaves; a world model needs at least one action key.")
        self.segments = tuple(segments)
        self.keys = tuple(segment.key for segment in segments)
        self.width = len(lows)
        continuous = torch.ones(self.width, dtype=torch.bool)
        for start, stop in self.groups:
            continuous[start:stop] = False
        self.is_continuous = not self.groups
        self.is_one_box = self.is_continuous and len(segments) == 1
        self.is_discrete = sum(stop - start for start, stop in self.groups) == self.width
        self.register_buffer("continuous", continuous, persistent=False)
        bounds = list(zip(lows, highs, strict=True))
        for name, values in (
            ("low", lows),
            ("high", highs),
            ("center", [(low + high) / 2 for low, high in bounds]),
            ("half_range", [(high - low) / 2 for low, high in bounds]),
        ):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    @property
    def combinations(self) -> int:
        """How many distinct actions a discrete space has; 0 if any dimension is continuous."""
        return math.prod(stop - start for start, stop in self.groups) if self.is_discrete else 0

    def enumerate(self) -> Tensor:
        """[combinations, A] every action of a discrete space, the last group varying fastest."""
        if not self.is_discrete:
            raise ValueError("Only a discrete action space can be enumerated; this one has continuous dimensions.")
        eyes = [torch.eye(stop - start, device=self.center.device) for start, stop in self.groups]
        index = torch.cartesian_prod(*(torch.arange(len(eye), device=eye.device) for eye in eyes))
        index = index.reshape(-1, len(eyes))
        return torch.cat([eye[index[:, i]] for i, eye in enumerate(eyes)], -1)

    def flatten(self, action: Mapping[NestedKey, Tensor]) -> Tensor:
        """[..., A] in `dtype` from actions as the environment takes them, one tensor a key."""
        parts = []
        for segment in self.segments:
            value = action[segment.key]
            value = value.flatten(-len(segment.shape)) if segment.shape else value.unsqueeze(-1)
            if segment.categories and not segment.one_hot:
                groups = [one_hot(value[..., i].long(), count) for i, count in enumerate(segment.categories)]
                value = torch.cat(groups, -1)
            parts.append(value)
        parts = [part.to(self.center.dtype) for part in parts]
        flat = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return ((flat - self.center) / self.half_range).to(self.dtype)

    def bounded(self, flat: Tensor) -> Tensor:
        """[..., A] the flat action that the environment would see: real numbers inside the bounds, one-hot classes."""
        return self.flatten(self.unflatten(flat))

    def unflatten(self, flat: Tensor) -> dict[NestedKey, Tensor]:
        """Actions as the environment takes them, from [..., A]; real numbers are kept inside the bounds."""
        scaled = flat * self.half_range + self.center
        action: dict[NestedKey, Tensor] = {}
        for segment in self.segments:
            place = slice(segment.start, segment.stop)
            if self.is_one_box:
                value = scaled.clamp(self.low, self.high)
            elif not segment.categories:
                value = scaled[..., place].clamp(self.low[place], self.high[place])
            elif segment.one_hot:
                value = flat[..., place]
            else:
                pieces = torch.split(flat[..., place], list(segment.categories), -1)
                value = torch.stack([piece.argmax(-1) for piece in pieces], -1)
            action[segment.key] = value.reshape((*flat.shape[:-1], *segment.shape)).to(segment.dtype)
        return action


def _bounds(key: NestedKey, leaf: TensorSpec) -> tuple[Tensor, Tensor]:
    if isinstance(leaf, Bounded) and leaf.dtype.is_floating_point:
        low, high = leaf.space.low.float(), leaf.space.high.float()
        # TorchRL writes an infinite bound as the largest number of the dtype.
        if bool((low.isfinite() & high.isfinite() & (low > -1e30) & (high < 1e30) & (low < high)).all()):
            return low, high
    raise ValueError(
        f"The action {key!r} has spec {leaf}, which is neither categorical nor a real-valued box with finite bounds "
        "low < high. Give the environment bounds, for example with gymnasium.wrappers.RescaleAction or ClipAction."
    )


def _categories(key: NestedKey, leaf: TensorSpec) -> tuple[tuple[int, ...], bool]:
    # In TorchRL MultiOneHot is a OneHot, MultiCategorical and Binary are Categoricals: the special kind comes first.
    if isinstance(leaf, OneHot):
        if isinstance(leaf, MultiOneHot):
            if len(leaf.shape) != 1:
                raise ValueError(f"The one-hot action {key!r} must have one dimension, got shape {tuple(leaf.shape)}.")
            return tuple(int(box.n) for box in leaf.space), True
        # TorchRL makes [choices, n] of a MultiDiscrete whose choices all have n classes.
        return (int(leaf.shape[-1]),) * leaf.shape[:-1].numel(), True
    if isinstance(leaf, MultiCategorical):
        return tuple(int(count) for count in leaf.nvec.flatten().tolist()), False
    if isinstance(leaf, Categorical):
        return (int(leaf.space.n),) * max(1, leaf.shape.numel()), False
    return (), False
