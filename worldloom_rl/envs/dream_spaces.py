"""What is observed of a dream, and how it takes actions, as gymnasium's spaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import OneHot, TensorSpec

from worldloom_rl.kernels.one_hot import one_hot
from worldloom_rl.keys import as_tuple
from worldloom_rl.specs.actions import ActionSegment, ActionSpace
from worldloom_rl.world_model import Latent, WorldModel

Values = Any  # an array, or a dictionary of dictionaries of them, as a space of gymnasium says
Space = spaces.Space[object]

_INFINITE = 1e30


class View(Protocol):
    """What is observed of a latent."""

    @property
    def space(self) -> Space:
        """Of one dream's observation."""

    def __call__(self, latent: Latent) -> Values:
        """Observations of latents [B, …], as the batched space has them."""


class Features:
    """Observes the features [F] of the latent, float32, as the model's own heads do."""

    def __init__(self, model: WorldModel) -> None:
        self.model = model
        with torch.no_grad():
            width = model.latent_features(model.initial_latent()).shape[-1]
        self.space = spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def __call__(self, latent: Latent) -> np.ndarray:
        features: np.ndarray = self.model.latent_features(latent).float().cpu().numpy()
        return features


class Decoded:
    """Observes what the model decodes, as the real environment shows it: in its names, shapes and data types.

    One observation stands for itself, several in a dictionary by their names. Raises ValueError for a model that does
    not decode all that it observes.
    """

    def __init__(self, model: WorldModel) -> None:
        self.model = model
        missing = [key for key in model.observation_keys if key not in model.decoded_keys]
        if missing:
            raise ValueError(
                f"{type(model).__name__} decodes no {missing}, which it observes: take observations='features'."
            )
        self._boxes = boxes = {key: _box(model.observation_spec[key]) for key in model.observation_keys}
        self._names = {key: as_tuple(key) for key in boxes}
        self._alone = len(boxes) == 1
        self.space: Space = (
            next(iter(boxes.values())) if self._alone else _nested({self._names[key]: boxes[key] for key in boxes})
        )

    def __call__(self, latent: Latent) -> Values:
        decoded = self.model.decode_latent(latent)
        values = {name: self._as_shown(decoded[key], key) for key, name in self._names.items()}
        return next(iter(values.values())) if self._alone else _tree(values)

    def _as_shown(self, value: Tensor, key: NestedKey) -> np.ndarray:
        box, dtype = self._boxes[key], self.model.observation_spec[key].dtype
        shown: np.ndarray = (value if dtype.is_floating_point else value.round()).cpu().numpy()
        return shown.clip(box.low, box.high).astype(box.dtype)


VIEWS: dict[str, Callable[[WorldModel], View]] = {"features": Features, "decoded": Decoded}


def view_of(model: WorldModel, name: str) -> View:
    """The view of that name. Raises ValueError for another."""
    if name not in VIEWS:
        raise ValueError(f"A dream is observed by its {' or '.join(map(repr, VIEWS))}, got {name!r}.")
    return VIEWS[name](model)


class DreamtActions:
    """A model's actions in gymnasium's spaces: boxes with its bounds, classes by their number.

    One action key stands for itself, several in a dictionary.
    """

    def __init__(self, actions: ActionSpace) -> None:
        self.actions = actions
        parts = {as_tuple(part.key): _action_part(actions, part) for part in actions.segments}
        self._alone = len(parts) == 1
        self.space: Space = next(iter(parts.values())) if self._alone else _nested(parts)

    def flat(self, actions: Sequence[Values]) -> Tensor:
        """[B, A] of an action each."""
        if self._alone:
            return self.flat_batch(np.stack([np.asarray(action) for action in actions]), len(actions))
        return self._flatten(
            {
                part.key: np.stack([np.asarray(_at(action, as_tuple(part.key))) for action in actions])
                for part in self.actions.segments
            },
            len(actions),
        )

    def flat_batch(self, actions: Values, count: int) -> Tensor:
        """[B, A] of B actions as gymnasium's batched space has them."""
        parts = self.actions.segments
        return self._flatten(
            {part.key: np.asarray(actions if self._alone else _at(actions, as_tuple(part.key))) for part in parts},
            count,
        )

    def _flatten(self, values: Mapping[NestedKey, np.ndarray], count: int) -> Tensor:
        given = {part.key: self._tensor(part, values[part.key], count) for part in self.actions.segments}
        return self.actions.flatten(given)

    def _tensor(self, part: ActionSegment, value: np.ndarray, count: int) -> Tensor:
        """[B, …] as the environment takes it. Raises ValueError for what is no action of the space."""
        numbers = len(part.categories) or part.shape.numel()
        tensor = torch.as_tensor(value, device=self.actions.center.device)
        if tensor.numel() != count * numbers:
            raise ValueError(
                f"{part.key!r} of {count} dreams is {count} x {numbers} numbers, got {tuple(tensor.shape)}."
            )
        tensor = tensor.reshape(count, numbers)
        if not part.categories:
            if not bool(tensor.isfinite().all()):
                raise ValueError(f"The action {part.key!r} is not finite: {value}.")
            place = slice(part.start, part.stop)
            real = tensor.to(part.dtype).clamp(self.actions.low[place], self.actions.high[place])
            return real.reshape(count, *part.shape)
        limits = torch.tensor(part.categories, device=tensor.device)
        if tensor.is_floating_point() or bool((tensor < 0).any() | (tensor >= limits).any()):
            raise ValueError(f"The action {part.key!r} is a class below {part.categories}, got {value}.")
        index = tensor.long()
        if part.one_hot:
            pieces = [one_hot(index[:, place], classes) for place, classes in enumerate(part.categories)]
            index = torch.cat(pieces, -1)
        return index.reshape(count, *part.shape).to(part.dtype)


def _action_part(actions: ActionSpace, part: ActionSegment) -> Space:
    if len(part.categories) == 1:
        return spaces.Discrete(part.categories[0])
    if part.categories:
        return spaces.MultiDiscrete(list(part.categories))
    place = slice(part.start, part.stop)
    low, high = (bound[place].reshape(part.shape).cpu().numpy() for bound in (actions.low, actions.high))
    return spaces.Box(low, high, tuple(part.shape), np.float32)


def _box(leaf: TensorSpec) -> spaces.Box:
    """The box of an observation's leaf, with its bounds where it has some."""
    dtype = torch.zeros((), dtype=leaf.dtype).numpy().dtype
    if hasattr(leaf.space, "low"):
        low, high = (bound.expand(leaf.shape).cpu().numpy() for bound in (leaf.space.low, leaf.space.high))
        if leaf.dtype.is_floating_point:  # TorchRL writes an infinite bound as the largest number of the dtype
            low, high = (np.where(abs(bound) > _INFINITE, np.sign(bound) * np.inf, bound) for bound in (low, high))
    else:
        low, high = 0, 1 if isinstance(leaf, OneHot) else int(getattr(leaf.space, "n", 2)) - 1
    return spaces.Box(low, high, tuple(leaf.shape), dtype.type)


def _nested(leaves: Mapping[tuple[str, ...], Space]) -> spaces.Dict:
    """A dictionary of dictionaries, by the parts of the keys."""

    def made(tree: Values) -> Space:
        return spaces.Dict({name: made(part) for name, part in tree.items()}) if isinstance(tree, dict) else tree

    space = made(_tree(leaves))
    assert isinstance(space, spaces.Dict)
    return space


def _tree(leaves: Mapping[tuple[str, ...], Values]) -> dict[str, Values]:
    """Values by the parts of their keys, dictionary in dictionary."""
    tree: dict[str, Values] = {}
    for key, value in leaves.items():
        below = tree
        for part in key[:-1]:
            below = below.setdefault(part, {})
        below[key[-1]] = value
    return tree


def _at(tree: Values, key: tuple[str, ...]) -> Values:
    for part in key:
        tree = tree[part]
    return tree
