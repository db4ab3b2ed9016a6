"""What an environment lets a model observe, and the sorting of an observation spec's leaves into vectors and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from tensordict import NestedKey
from torchrl.data import Composite, TensorSpec

# What environments and transforms add to the observations for themselves.

Leaves = Mapping[NestedKey, TensorSpec]


def leaves_of(spec: Composite) -> dict[NestedKey, TensorSpec]:
    """The spec's leaves by key, in its order."""
    return dict(spec.items(include_nested=True, leaves_only=True))


def is_real_vector(leaf: TensorSpec) -> bool:
    """Whether these are real numbers [n]."""
    return bool(leaf.dtype.is_floating_point) and len(leaf.shape) == 1


def is_byte_image(leaf: TensorSpec) -> bool:
    """Whether this is a uint8 image [C, height, width]."""
    return leaf.dtype == torch.uint8 and len(leaf.shape) == 3


def is_image(leaf: TensorSpec) -> bool:
    """Whether this is an image [C, height, width] of uint8 or of real numbers."""
    return is_byte_image(leaf) or (bool(leaf.dtype.is_floating_point) and len(leaf.shape) == 3)


class SortedLeaves(NamedTuple):
    """Leaves by what a family does with them, each in the order of the spec."""

    vectors: dict[NestedKey, TensorSpec]
    images: dict[NestedKey, TensorSpec]


def sort_leaves(
    leaves: Leaves,
    *,
    reader: str,
    takes: str,
    remedy: str = "Drop the leaf, or convert it with a transform.",
    vector: Callable[[TensorSpec], bool] = is_real_vector,
    image: Callable[[TensorSpec], bool] = is_byte_image,
) -> SortedLeaves:
    """The vectors and the images among observation leaves. Raises ValueError naming the first that is neither.

    Args:
        reader: whose leaves these are, for the message; takes: what it reads; remedy: what to do about another leaf.
        vector, image: whether a leaf is one; a leaf that is both is an image.
    """
    found = SortedLeaves({}, {})
    for key, leaf in leaves.items():
        if image(leaf):
            found.images[key] = leaf
        elif vector(leaf):
            found.vectors[key] = leaf
        else:
            grid = leaf.dtype.is_floating_point and leaf.ndim > 1
            flat = " gymnasium.wrappers.FlattenObservation makes a vector of a grid of numbers." if grid else ""
            raise ValueError(
                f"{reader} cannot read the observation {key!r} of shape {tuple(leaf.shape)} and dtype {leaf.dtype}: it "
                f"takes {takes}. {remedy}{flat}"
            )
    return found
