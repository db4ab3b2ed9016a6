"""Episodes in HDF5 files: images, vectors or both, with actions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded

from worldloom_rl.data.hdf5_layout import Place, find_episodes, hdf5_files, opened
from worldloom_rl.data.recording import Excerpt, Recording, seen_bounds
from worldloom_rl.keys import ACTION
from worldloom_rl.specs.spaces import resize_image

if TYPE_CHECKING:
    import h5py


class HDF5Recording(Recording):
    """Episodes of an HDF5 file, or of all *.h5 and *.hdf5 files under a directory, in the natural order of their names.

    An episode is a group (at any depth), or a file. It has observations, at least one of

        pixels        uint8 [T, height, width, C], C = 1, 3 or 4 (channels last), T at least 2
        observation   real [T, O], or a group of such arrays and images, whose names are the keys (or observations, obs)
        proprio       real [T, P]

    and

        actions       real [T - 1, A] or [T, A]: row t leads from frame t to t + 1; of T rows the last is not used
        rewards       [T - 1] or [T], optional: for the action of that row
        terminated    optional, a flag, or one a row: whether the last frame is a terminal state
        task          attribute of the episode or of the file, optional: the task's name

    A file may hold several episodes one after the other in such arrays [N, …] if it tells where they end, by the number
    of each row's episode (episode, episode_index, ep_idx, …), or by flags in the last row of each (terminals, timeouts,
    dones, …). If next_observations are there too, each episode has one frame more, the last of them, and the flag says
    whether that is terminal, as in D4RL; else the flag is about the frame of its own row. Single frames are left out.

    Rows hold images as [C, height, width]; actions stand under "action", whose bounds are the lowest and the highest
    value of each column (one less and one more where a column never changes). Other entries are left alone.

        with h5py.File("episodes/0.h5", "w") as file:
            file["pixels"], file["actions"] = frames, actions

    Args:
        path: of the file or the directory.
        image_size: rows and columns that images are brought to; by default they stay as they are.
    Raises ImportError without h5py, FileNotFoundError if there is no file, ValueError naming the file and the entry.
    """

    def __init__(self, path: Path, image_size: int | None = None) -> None:
        self.image_size = image_size
        self._files = hdf5_files(path)
        self._places: list[Place] = []
        lows, highs = [], []
        first: tuple[dict[str, tuple[int, ...]], Place] | None = None  # row shapes of the first episode
        for file in self._files:
            with opened(file) as content:
                for place in find_episodes(file, content):
                    shapes = _row_shapes(place, content[place.group])
                    first = first or (shapes, place)
                    _check_alike(shapes, place, *first)
                    actions = _actions(place, content[place.group], 0, place.frames - 1)
                    self._places.append(place)
                    lows.append(actions.min(0))
                    highs.append(actions.max(0))
        assert first is not None  # a file without an episode is an error
        names = list(dict.fromkeys(place.task for place in self._places))
        if len(names) > 1 and "" in names:
            unnamed = next(place for place in self._places if not place.task)
            raise ValueError(f"{unnamed} has no attribute 'task', but other episodes have: give it to all of them.")
        super().__init__(
            str(path),
            self._observation_spec(first[1], first[0]),
            Composite({ACTION: seen_bounds(np.stack([*lows, *highs]))}),
            [place.frames for place in self._places],
            [names.index(place.task) for place in self._places],
            [name for name in names if name],
        )
        self.seen_actions = (torch.from_numpy(np.min(lows, 0)), torch.from_numpy(np.max(highs, 0)))

    def _observation_spec(self, place: Place, shapes: dict[str, tuple[int, ...]]) -> Composite:
        return Composite({key: self._leaf(shapes[key]) for key in place.observations})

    def _leaf(self, shape: tuple[int, ...]) -> TensorSpec:
        if len(shape) < 2:
            return Unbounded(shape or (1,))
        size = shape[:2] if self.image_size is None else (self.image_size, self.image_size)
        return Bounded(0, 255, shape=(shape[2], *size), dtype=torch.uint8)

    def read(self, episode: int, start: int, stop: int) -> Excerpt:
        place = self._places[episode]
        with opened(place.file) as content:
            entries = content[place.group]
            observation: dict[NestedKey, Tensor] = {
                key: self._observed(_frames(place, entries, key, start, stop)) for key in place.observations
            }
            actions = _actions(place, entries, start, stop)
            reward = None
            if place.rewards is not None:
                rewards = entries[place.rewards][place.start + start : place.start + stop]
                reward = torch.from_numpy(np.asarray(rewards, dtype=np.float32).reshape(-1))
        return Excerpt(observation, {ACTION: torch.from_numpy(actions)}, reward, place.terminated)

    def _observed(self, values: np.ndarray) -> Tensor:
        if values.ndim < 4:
            return torch.from_numpy(values.astype(np.float32)).reshape(len(values), -1)
        pixels = np.moveaxis(values, -1, -3)
        pixels = np.ascontiguousarray(pixels) if self.image_size is None else resize_image(pixels, self.image_size)
        return torch.from_numpy(pixels)

    def files(self) -> Sequence[Path]:
        return self._files

    def told(self, episode: int) -> str:
        place = self._places[episode]
        return f"{place}, episode from row {place.start}"


def _frames(place: Place, entries: h5py.Group, key: str, start: int, stop: int) -> np.ndarray:
    """Observations `start` to `stop` (included) of an episode."""
    shown = np.asarray(entries[place.observations[key]][place.start + start : min(place.start + stop + 1, place.stop)])
    if place.start + stop < place.stop:
        return shown
    return np.concatenate([shown, entries[place.closing[key]][place.stop - 1 : place.stop]])


def _actions(place: Place, entries: h5py.Group, start: int, stop: int) -> np.ndarray:
    first = place.start + start
    actions = np.asarray(entries[place.actions][first : place.start + stop], dtype=np.float32)
    wrong = np.argwhere(~np.isfinite(actions).all(-1))
    if len(wrong):
        row = int(wrong[0, 0])
        raise ValueError(f"{place}: row {first + row} of {place.actions!r} is not finite: {actions[row]}.")
    return actions


def _row_shapes(place: Place, entries: h5py.Group) -> dict[str, tuple[int, ...]]:
    """The shape of one row, by entry."""
    observed = {key: tuple(entries[path].shape[1:]) for key, path in place.observations.items()}
    return {**observed, "actions": tuple(entries[place.actions].shape[1:])}


def _check_alike(
    shapes: dict[str, tuple[int, ...]], place: Place, first: dict[str, tuple[int, ...]], first_place: Place
) -> None:
    for entry in sorted(first.keys() | shapes.keys()):
        if shapes.get(entry) != first.get(entry):
            raise ValueError(
                f"{place}: {entry!r} has rows of shape {shapes.get(entry)}, but in {first_place} of "
                f"{first.get(entry)}; all episodes must be alike."
            )
