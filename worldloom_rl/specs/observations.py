"""What an environment lets a model observe, and the sorting of an observation spec's leaves into vectors and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from tensordict import NestedKey
from torchrl.data import Composite, TensorSpec
from torchrl.envs import EnvBase

# What environments and transforms add to the observations for themselves.
_BOOKKEEPING = ("is_init", "step_count", "planner", "latent", "previous_action")

Leaves = Mapping[NestedKey, TensorSpec]


def specs_of(env: EnvBase) -> tuple[Composite, Composite]:
    """The un-batched observation and action specs of an environment, as a model takes them.

    Bookkeeping that transforms add to the observations ("is_init", step counts, carried planner state) is left out.
    """
    observation = env.observation_spec_unbatched.clone()
    for key in _BOOKKEEPING:
        if key in observation.keys():  # noqa: SIM118 (a spec is no mapping)
            del observation[key]
    return observation, env.full_action_spec_unbatched.clone()


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
            raise ValueError(
                f"{reader} cannot read the observation {key!r} of shape {tuple(leaf.shape)} and dtype {leaf.dtype}: it "
                f"takes {takes}. {remedy}"
            )
    return found
