"""Videos with actions in HDF5 files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from tensordict import NestedKey
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.data.recording import Excerpt, Recording
from worldloom_rl.extras import require
from worldloom_rl.keys import ACTION
from worldloom_rl.specs.spaces import resize_image

if TYPE_CHECKING:
    import h5py

PIXELS, ACTIONS, PROPRIO = "pixels", "actions", "proprio"
_SUFFIXES = (".h5", ".hdf5")


class HDF5Recording(Recording):
    """Episodes of an HDF5 file, or of all *.h5 and *.hdf5 files under a directory, in the natural order of their names.

    An episode is a group, or the file itself where it holds one episode, with

        pixels    uint8 [T, height, width, C], C = 1, 3 or 4 (channels last), T at least 2
        actions   real [T - 1, A] or [T, A]: row t leads from frame t to t + 1; of T rows the last is not used
        proprio   real [T, P], optional: in all episodes or in none

    Rows of replay hold "pixels" [C, height, width] and "proprio"; actions stand under "action", whose bounds are the
    lowest and the highest value of each column (one less and one more where a column never changes). Other entries are
    left alone.

        with h5py.File("episodes/0.h5", "w") as file:
            file["pixels"], file["actions"] = frames, actions

    Args:
        path: of the file or the directory.
        image_size: rows and columns that images are brought to; by default they stay as they are.
    Raises ImportError without h5py, FileNotFoundError if there is no file, ValueError naming the file and the entry.
    """

    def __init__(self, path: Path, image_size: int | None = None) -> None:
        self._open: type[h5py.File] = _h5py().File
        self.source = str(path)
        self.image_size = image_size
        self.frames = []
        self._places: list[tuple[Path, str]] = []  # file and group of each episode
        lows, highs = [], []
        first: tuple[dict[str, tuple[int, ...]], str] | None = None  # row shapes of the first episode, and its name
        for file in _files(path):
            with self._open(file, "r") as content:
                for group in _groups(file, content):
                    name = f"{file}, {group}"
                    entries = _entries(name, content[group])
                    first = first or (entries, name)
                    _check_alike(entries, name, *first)
                    self._places.append((file, group))
                    self.frames.append(len(content[group][PIXELS]))
                    actions = _actions(name, content[group], 0, self.frames[-1] - 1)
                    lows.append(actions.min(0))
                    highs.append(actions.max(0))
        assert first is not None  # a file without an episode is an error
        shapes, _ = first
        low, high = np.min(lows, 0), np.max(highs, 0)
        still = low == high
        bounds = (torch.from_numpy(np.where(still, bound + step, bound)) for bound, step in ((low, -1), (high, 1)))
        self.action_spec = Composite({ACTION: Bounded(*bounds, shape=low.shape, dtype=torch.float32)})
        height, width, channels = shapes[PIXELS]
        size = (height, width) if image_size is None else (image_size, image_size)
        self.observation_spec = Composite({PIXELS: Bounded(0, 255, shape=(channels, *size), dtype=torch.uint8)})
        if PROPRIO in shapes:
            self.observation_spec[PROPRIO] = Unbounded(shapes[PROPRIO])

    def read(self, episode: int, start: int, stop: int) -> Excerpt:
        file, group = self._places[episode]
        with self._open(file, "r") as content:
            entries = content[group]
            pixels = np.moveaxis(entries[PIXELS][start : stop + 1], -1, -3)
            pixels = np.ascontiguousarray(pixels) if self.image_size is None else resize_image(pixels, self.image_size)
            observation: dict[NestedKey, torch.Tensor] = {PIXELS: torch.from_numpy(pixels)}
            if PROPRIO in entries:
                observation[PROPRIO] = torch.from_numpy(entries[PROPRIO][start : stop + 1].astype(np.float32))
            actions = _actions(f"{file}, {group}", entries, start, stop)
        return Excerpt(observation, {ACTION: torch.from_numpy(actions)})


def _h5py() -> ModuleType:
    return require("h5py", extra="offline", why="HDF5 files need h5py")


def _files(path: Path) -> list[Path]:
    """The HDF5 files that a path stands for, in the natural order of their names: 2 before 10."""
    if path.is_file():
        return [path]
    files = sorted((file for file in path.rglob("*") if file.suffix in _SUFFIXES), key=lambda file: _natural(str(file)))
    if not files:
        what = "holds no file *.h5 or *.hdf5" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; a Minari dataset is named minari:NAME.")
    return files


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _groups(file: Path, content: h5py.File) -> Iterator[str]:
    """The episodes of an open file: "/" or its groups."""
    if PIXELS in content:
        return iter(["/"])
    groups = [name for name in content if hasattr(content[name], "keys") and PIXELS in content[name]]
    if not groups:
        raise ValueError(
            f"{file} holds {sorted(content)}, no {PIXELS!r}: a file is an episode with {PIXELS!r} and {ACTIONS!r}, or "
            "holds such episodes as groups."
        )
    return iter(sorted(groups, key=_natural))


def _entries(name: str, entries: h5py.Group) -> dict[str, tuple[int, ...]]:
    """The shape of one row by entry, once all is seen to be as `HDF5Recording` says."""
    if ACTIONS not in entries:
        raise ValueError(f"{name}: there is no {ACTIONS!r} beside {PIXELS!r}, only {sorted(entries)}.")
    pixels, actions = entries[PIXELS], entries[ACTIONS]
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{name}: {PIXELS!r} must be uint8 [T, height, width, C] with C = 1, 3 or 4, got {pixels.dtype} "
            f"{list(pixels.shape)}."
        )
    frames = len(pixels)
    if frames < 2:
        raise ValueError(f"{name}: an episode has at least two frames, got {frames}.")
    if actions.dtype.kind != "f" or actions.ndim != 2 or len(actions) not in (frames - 1, frames):
        raise ValueError(
            f"{name}: {ACTIONS!r} must be real numbers [{frames - 1} or {frames}, A] for {frames} frames, got "
            f"{actions.dtype} {list(actions.shape)}; write discrete ones as one-hot rows."
        )
    found = {PIXELS: pixels.shape[1:], ACTIONS: actions.shape[1:]}
    if PROPRIO in entries:
        proprio = entries[PROPRIO]
        if proprio.dtype.kind not in "fiu" or proprio.ndim != 2 or len(proprio) != frames:
            raise ValueError(
                f"{name}: {PROPRIO!r} must be numbers [{frames}, P] for {frames} frames, got {proprio.dtype} "
                f"{list(proprio.shape)}."
            )
        found[PROPRIO] = proprio.shape[1:]
    return found


def _check_alike(
    entries: dict[str, tuple[int, ...]], name: str, first: dict[str, tuple[int, ...]], first_name: str
) -> None:
    for entry in first.keys() | entries.keys():
        if entries.get(entry) != first.get(entry):
            raise ValueError(
                f"{name}: {entry!r} has rows of shape {entries.get(entry)}, but in {first_name} of {first.get(entry)}; "
                "all episodes must be alike."
            )


def _actions(name: str, entries: h5py.Group, start: int, stop: int) -> np.ndarray:
    actions = np.asarray(entries[ACTIONS][start:stop], dtype=np.float32)
    wrong = np.argwhere(~np.isfinite(actions).all(-1))
    if len(wrong):
        row = int(wrong[0, 0])
        raise ValueError(f"{name}: row {start + row} of {ACTIONS!r} is not finite: {actions[row]}.")
    return actions
