"""Datasets of Minari."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from tensordict import NestedKey
from torch import Tensor
from torch.nn import functional as F
from torchrl.data import Composite, TensorSpec
from torchrl.envs.libs.gym import _gym_to_torchrl_spec_transform

from worldloom_rl.data.recording import Excerpt, Recording
from worldloom_rl.extras import require
from worldloom_rl.keys import ACTION, as_tuple
from worldloom_rl.specs.observed import convert_episode
from worldloom_rl.specs.spaces import Space, action_space_of, observation_space_of, resize_image

if TYPE_CHECKING:
    from minari import EpisodeData, MinariDataset

_OBSERVATION = "observation"


class MinariRecording(Recording):
    """The episodes of a local Minari dataset, read one at a time.

    Keys, dtypes and layouts are those that `make_env` gives for the same spaces: images [C, height, width] as uint8,
    one-hot discrete actions, other numbers float32. Texts are left out; so are infos and episodes without a step. One
    that is terminated or truncated before its last step is refused.
    (TorchRL's `MinariExperienceReplay` keeps every frame twice, and that of 0.14.1 gives zeros.)

    Args:
        name: such as "D4RL/pointmaze/umaze-v2"; download it before: `minari download NAME`.
        image_size: rows and columns that images are brought to; by default they stay as they are.
    Raises ImportError without minari, FileNotFoundError if the dataset is not there, ValueError for spaces that no
    model reads.
    """

    def __init__(self, name: str, image_size: int | None = None) -> None:
        source = f"minari:{name}"
        self.image_size = image_size
        self._dataset = _load(name)
        with _named(source):
            environment = self._dataset.env_spec
            steps = [int(data["total_steps"]) for data in self._dataset.storage.get_episode_metadata(self._indices())]
        self._observation_space = self._dataset.observation_space
        self._action_space = self._dataset.action_space
        observation_spec = _composite(observation_space_of(source, self._observation_space), _OBSERVATION)
        for key, leaf in observation_spec.items(True, True):
            if image_size is not None and _is_image(leaf):
                shape = (leaf.shape[0], image_size, image_size)
                observation_spec[key] = type(leaf)(0, 255, shape=shape, dtype=torch.uint8)
        if min(steps, default=0) < 0:
            raise ValueError(f"{source} says that an episode has {min(steps)} steps; download it again.")
        self._episodes = [index for index, count in zip(self._indices(), steps, strict=True) if count]
        if not self._episodes:
            raise ValueError(f"{source} holds no episode with a step.")
        super().__init__(
            source,
            observation_spec,
            _composite(action_space_of(source, self._action_space), ACTION),
            [count + 1 for count in steps if count],
            names=() if environment is None else (environment.id,),
        )
        self._held: tuple[int, EpisodeData] | None = None  # the episode that was read last

    def read(self, episode: int, start: int, stop: int) -> Excerpt:
        if self._held is None or self._held[0] != episode:
            self._held = (episode, self._whole(episode))
        data = self._held[1]
        observed = convert_episode(self.source, self._observation_space, _rows(data.observations, start, stop + 1))
        observation: dict[NestedKey, Tensor] = {}
        for key, spec, values in _leaves(self.observation_spec, observed):
            resized = self.image_size is not None and _is_image(spec)
            observation[key] = torch.from_numpy(resize_image(values, spec.shape[-1]) if resized else values)
        action = {
            key: _encoded(self.told(episode), spec, _leaf_space(self._action_space, key), values)
            for key, spec, values in _leaves(self.action_spec, _rows(data.actions, start, stop))
        }
        reward = torch.from_numpy(np.asarray(data.rewards[start:stop], dtype=np.float32))
        ends = bool(data.terminations[stop - 1]), bool(data.truncations[stop - 1])
        return Excerpt(observation, action, reward, *ends)

    def _whole(self, episode: int) -> EpisodeData:
        """An episode, once it is seen to be as long as the dataset says, and to end there alone."""
        told, steps = self.told(episode), int(self.lengths[episode]) - 1
        with _named(told):
            data = next(iter(self._dataset.iterate_episodes([self._episodes[episode]])))
        parts = [("observations", data.observations, steps + 1), ("actions", data.actions, steps)]
        parts += [(name, getattr(data, name), steps) for name in ("rewards", "terminations", "truncations")]
        for name, values, expected in parts:
            if lengths := sorted(set(_lengths(values)) - {expected}):
                raise ValueError(f"{told}: {name} have {lengths[0]} rows, but {expected} belong to {steps} steps.")
        early = np.flatnonzero((np.asarray(data.terminations) | np.asarray(data.truncations))[:-1])
        if len(early):
            raise ValueError(f"{told} ends in step {early[0]} already, but has {steps}: part it there.")
        return data

    def files(self) -> Sequence[Path]:
        folder = Path(self._dataset.storage.data_path)
        return sorted(file for file in folder.rglob("*") if file.is_file())

    def _indices(self) -> np.ndarray:
        indices: np.ndarray = self._dataset.episode_indices
        return indices


def _load(name: str) -> MinariDataset:
    minari = require("minari", extra="offline", why="Minari datasets need minari")
    known = sorted(minari.list_local_datasets())
    if name not in known:
        raise FileNotFoundError(
            f"There is no local Minari dataset {name!r}; there are {known}. Download it with 'minari download {name}', "
            "or tell where it is by the environment variable MINARI_DATASETS_PATH."
        )
    with _named(f"minari:{name}"):
        return minari.load_dataset(name)


@contextmanager
def _named(told: str) -> Iterator[None]:
    """Makes of what a damaged file lets minari raise, which is of many kinds, a ValueError that names it."""
    try:
        yield
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{told} cannot be read, a file of it may be cut off: {str(error)[:200]!r}.") from error


def _lengths(values: object) -> Iterator[int]:
    """Rows of every array, dictionaries gone into."""
    for value in values.values() if isinstance(values, dict) else ():
        yield from _lengths(value)
    if isinstance(values, Sized) and not isinstance(values, dict):
        yield len(values)


def _composite(space: Space, alone: str) -> Composite:
    """TorchRL's specs as its `GymWrapper` makes them."""
    spec = _gym_to_torchrl_spec_transform(space)
    return spec if isinstance(spec, Composite) else Composite({alone: spec})


def _is_image(spec: TensorSpec) -> bool:
    return bool(spec.dtype == torch.uint8)


def _rows(values: Any, start: int, stop: int) -> Any:
    if isinstance(values, dict):
        return {part: _rows(leaf, start, stop) for part, leaf in values.items()}
    return values[start:stop]


def _leaves(spec: Composite, values: Any) -> Iterator[tuple[NestedKey, TensorSpec, np.ndarray]]:
    """Key, spec and values of every leaf; one that stands alone has no name in the values."""
    for key, leaf in spec.items(True, True):
        found = values
        for part in as_tuple(key) if isinstance(values, dict) else ():
            # As TorchRL does: a "state" without an "observation" has that name.
            found = found["state" if part == _OBSERVATION and part not in found else part]
        yield key, leaf, np.asarray(found)


def _leaf_space(space: Space, key: NestedKey) -> Space:
    for part in as_tuple(key):
        space = space[part] if isinstance(space, spaces.Dict) else space
    return space


def _encoded(name: str, spec: TensorSpec, space: Space, values: np.ndarray) -> Tensor:
    """Actions [T, …] as the agent gives them: float32, or one-hot of classes counted from zero."""
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return torch.from_numpy(values.astype(np.float32))
    classes = [int(space.n)] if isinstance(space, spaces.Discrete) else [int(count) for count in space.nvec]
    counted = torch.from_numpy((values - space.start).astype(np.int64)).reshape(len(values), len(classes))
    if bool((counted < 0).any() | (counted >= torch.tensor(classes)).any()):
        raise ValueError(f"{name}: an action is not in {space}.")
    # TorchRL's own encoding of unequal choices takes one action at a time.
    groups = [F.one_hot(counted[:, place], count) for place, count in enumerate(classes)]
    return torch.cat(groups, -1).reshape(len(values), *spec.shape).to(spec.dtype)
