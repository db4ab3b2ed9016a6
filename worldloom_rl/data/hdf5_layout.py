"""Where the episodes of HDF5 files are: as groups, as files, or one after the other in flat arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worldloom_rl.extras import require
from worldloom_rl.keys import RESERVED

if TYPE_CHECKING:
    import h5py

PIXELS, PROPRIO, OBSERVATION = "pixels", "proprio", "observation"
_OBSERVATIONS = (OBSERVATION, "observations", "obs")
_NEXT = ("next_observation", "next_observations", "next_obs")
_ACTIONS, _REWARDS = ("actions", "action"), ("rewards", "reward")
_TERMINATED = ("terminated", "terminals", "terminations")
_CUT = ("truncated", "timeouts", "truncations", "dones", "done")
_NUMBERS = ("episode", "episode_id", "episode_ids", "episode_idx", "episode_index", "ep_idx")
_TASK = "task"  # attribute
_SUFFIXES = (".h5", ".hdf5")
_CHANNELS = (1, 3, 4)
_EXPANSION = 1100  # times a file's bytes that its arrays may have: gzip comes to 1,032


@dataclass(frozen=True)
class Place:
    """An episode's rows in the arrays of a group.

    Attributes:
        observations: paths of the arrays by the key of a row, below the group.
        closing: the same of the observations that transitions led to; those after the last row are taken from there.
        start, stop: rows of the arrays.
        terminated: whether the last observation is a terminal state.
    """

    file: Path
    group: str
    observations: Mapping[str, str]
    actions: str
    rewards: str | None
    start: int
    stop: int
    closing: Mapping[str, str] = field(default_factory=dict)
    terminated: bool = False
    task: str = ""

    @property
    def frames(self) -> int:
        """Observations of the episode."""
        return self.stop - self.start + bool(self.closing)

    def __str__(self) -> str:
        return f"{self.file}, {self.group}"


def hdf5_files(path: Path) -> list[Path]:
    """The HDF5 files that a path stands for, in the natural order of their names: 2 before 10."""
    if path.is_file():
        return [path]
    found = (file for file in path.rglob("*") if file.suffix in _SUFFIXES and not file.is_dir())
    files = sorted(found, key=lambda file: _natural(str(file)))
    if not files:
        what = "holds no file *.h5 or *.hdf5" if path.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"{path} {what}; a run has a config.json, and other data a word before it: minari:NAME, lerobot:DIR, "
            "tdmpc2:DIR, newt:DIR."
        )
    return files


@contextmanager
def opened(file: Path) -> Iterator[h5py.File]:
    """The file, open; what is broken in it is a ValueError that names it."""
    h5py = require("h5py", extra="offline", why="HDF5 files need h5py")
    if not file.is_file():
        there = "is no regular file" if file.exists() else "does not exist any more"
        raise FileNotFoundError(f"{file} {there}.")
    try:
        with h5py.File(file, "r") as content:
            yield content
    except (OSError, RuntimeError) as error:  # h5py has both for damaged content
        raise ValueError(f"{file} cannot be read as HDF5, it may be cut off or of another kind: {error}") from error


def find_episodes(file: Path, content: h5py.File) -> list[Place]:
    """The episodes of an open file, once their arrays are seen to fit together.

    Raises ValueError naming the file, the group and the array.
    """
    if _leaves(content) or _first(content, _ACTIONS):
        return _flat(file, content)
    groups = sorted(_groups(content), key=_natural)
    if not groups:
        raise ValueError(
            f"{file} holds {sorted(content)}, no {PIXELS!r} and no {OBSERVATION!r}: a file is an episode with one of "
            "them and 'actions', holds such episodes as groups, or several in flat arrays with their ends."
        )
    return [_whole(file, group, content[group]) for group in groups]


def _groups(content: h5py.Group, path: str = "") -> Iterator[str]:
    """Paths of the groups that are an episode, at any depth."""
    for name, entry in content.items():
        if not hasattr(entry, "keys"):
            continue
        if _leaves(entry):
            yield f"{path}/{name}" if path else name
        else:
            yield from _groups(entry, f"{path}/{name}" if path else name)


def _leaves(group: h5py.Group, names: Iterable[str] = _OBSERVATIONS, alone: str = OBSERVATION) -> dict[str, str]:
    """Paths of the observation arrays, by the key of a row: what stands in an array alone, or in a group of them."""
    found = {name: name for name in (PIXELS, PROPRIO) if alone == OBSERVATION and _is_array(group, name)}
    name = _first(group, names)
    if name is None:
        return found
    if _is_array(group, name):
        return {**found, alone: name}
    return {**found, **{part: f"{name}/{part}" for part in sorted(group[name]) if _is_array(group[name], part)}}


def _is_array(group: h5py.Group, name: str) -> bool:
    return name in group and hasattr(group[name], "shape")


def _first(group: h5py.Group, names: Iterable[str]) -> str | None:
    return next((name for name in names if name in group), None)


def _whole(file: Path, group: str, entries: h5py.Group) -> Place:
    """The one episode of a group."""
    name = f"{file}, {group}"
    place = _place(file, group, entries)
    frames = place.frames
    if frames < 2:
        raise ValueError(f"{name}: an episode has at least two frames, got {frames}.")
    flags = _flags(name, entries, _TERMINATED, place.stop)
    if flags is None or not flags.any():
        return place
    # Of as many rows as there are frames, the last stands for the last frame or for the unused action beside it.
    if flags[: place.stop - 2].any():
        row = int(flags.argmax())
        raise ValueError(f"{name}: row {row} says that a terminal state came, but the episode has {frames} frames.")
    return _replaced(place, place.start, place.stop, terminated=True)


def _flat(file: Path, entries: h5py.File) -> list[Place]:
    """The episodes that stand one after the other in a file's arrays; one, where nothing tells their ends."""
    name = f"{file}, /"
    place = _place(file, "/", entries)
    rows = place.stop
    numbers = _first(entries, _NUMBERS)
    flags = {kind: _flags(name, entries, kind, rows) for kind in (_TERMINATED, _CUT)}
    whole = {kind: found for kind, found in flags.items() if found is not None and len(found) == rows}
    if numbers is not None and _is_array(entries, numbers):
        _check_stored(f"{name}: {numbers!r}", entries[numbers], file)
        of_rows = np.asarray(entries[numbers]).reshape(-1)
        if len(of_rows) != rows:
            raise ValueError(f"{name}: {numbers!r} has {len(of_rows)} rows for {rows} frames.")
        last = np.append(of_rows[1:] != of_rows[:-1], True)
    elif whole:
        last = np.logical_or.reduce(list(whole.values()))
        last[-1] = True
    else:
        return [_whole(file, "/", entries)]
    stops = (np.flatnonzero(last) + 1).tolist()
    terminal = whole.get(_TERMINATED, np.zeros(rows, dtype=bool))
    ranges = zip([0, *stops[:-1]], stops, strict=True)
    found = [_replaced(place, start, stop, terminated=bool(terminal[stop - 1])) for start, stop in ranges]
    kept = [each for each in found if each.frames > 1]
    if not kept:
        raise ValueError(f"{name}: none of its {len(found)} episodes has a transition, each is a single frame.")
    return kept


def _replaced(place: Place, start: int, stop: int, *, terminated: bool) -> Place:
    return Place(
        place.file, place.group, place.observations, place.actions, place.rewards, start, stop, place.closing,
        terminated, place.task,
    )  # fmt: skip


def _flags(name: str, entries: h5py.Group, names: Iterable[str], rows: int) -> np.ndarray | None:
    """[rows or rows - 1] which rows have one of these flags; a single number speaks of the end."""
    present = [each for each in names if _is_array(entries, each)]
    for each in present:
        _check_stored(f"{name}: {each!r}", entries[each], Path(entries.file.filename))
    found = [np.asarray(entries[each]).reshape(-1) != 0 for each in present]
    if not found:
        return None
    for each in found:
        if len(each) not in (1, rows - 1, rows):
            raise ValueError(f"{name}: a flag of the ends of episodes has {len(each)} rows for {rows} frames.")
    length = max(rows - 1, *map(len, found))
    flags: np.ndarray = np.logical_or.reduce([np.append(np.zeros(length - len(each), bool), each) for each in found])
    return flags


def _place(file: Path, group: str, entries: h5py.Group) -> Place:
    """All rows of a group's arrays, once these are seen to fit together."""
    name = f"{file}, {group}"
    observations = _leaves(entries)
    actions = _first(entries, _ACTIONS)
    if actions is None:
        raise ValueError(f"{name}: there is no 'actions' beside {sorted(observations)}, only {sorted(entries)}.")
    if not observations:
        raise ValueError(f"{name}: there is no {PIXELS!r} and no {OBSERVATION!r} beside {actions!r}.")
    reserved = sorted(set(observations) & RESERVED)
    if reserved:
        raise ValueError(f"{name}: the observations {reserved} have names of the key contract; rename them.")
    closing = _closing(entries, observations)
    rewards = _first(entries, _REWARDS)
    for path in filter(None, (*observations.values(), *closing.values(), actions, rewards)):
        if not getattr(entries[path], "shape", ()):
            raise ValueError(f"{name}: {path!r} is no array of rows.")
        _check_stored(f"{name}: {path!r}", entries[path], file)
    frames = len(entries[next(iter(observations.values()))])
    for key, path in (*observations.items(), *closing.items()):
        _check_observation(f"{name}: {path!r}", entries[path], frames, image=key == PIXELS)
    _check_actions(f"{name}: {actions!r}", entries[actions], frames, closed=bool(closing))
    if rewards is not None:
        _check_rewards(f"{name}: {rewards!r}", entries[rewards], frames, closed=bool(closing))
    return Place(file, group, observations, actions, rewards, 0, frames, closing, task=_task(entries))


def _closing(entries: h5py.Group, observations: Mapping[str, str]) -> dict[str, str]:
    """The observations that transitions lead to, if the file has them of all leaves."""
    found = _leaves(entries, _NEXT, alone=f"next {OBSERVATION}")
    if f"next {OBSERVATION}" in found:
        found = {OBSERVATION: found[f"next {OBSERVATION}"]}
    return found if found.keys() == observations.keys() else {}


def _task(entries: h5py.Group) -> str:
    task = entries.attrs.get(_TASK, entries.file.attrs.get(_TASK, ""))
    return task.decode(errors="replace") if isinstance(task, bytes) else str(task)


def _check_stored(name: str, entry: h5py.Dataset, file: Path) -> None:
    """Raise ValueError unless this very file holds an array's numbers."""
    if entry.external or entry.is_virtual or entry.file.filename != str(file):
        raise ValueError(f"{name} leads to other files, which are not read: copy its numbers into this one.")
    if entry.nbytes > _EXPANSION * file.stat().st_size + 2**20:
        raise ValueError(f"{name} would have {entry.nbytes:,} bytes, more than the file can hold of it.")


def _check_observation(name: str, entry: h5py.Dataset, frames: int, *, image: bool) -> None:
    given = f"{entry.dtype} {list(entry.shape)}"
    right = entry.dtype.kind in "fiub" and entry.ndim in (1, 2) and 0 not in entry.shape[1:]
    if image or (entry.dtype == np.uint8 and entry.ndim == 4):
        if entry.dtype != np.uint8 or entry.ndim != 4 or entry.shape[-1] not in _CHANNELS:
            raise ValueError(f"{name} must be uint8 [T, height, width, C] with C = 1, 3 or 4, got {given}.")
        right = True
    if not right or len(entry) != frames:
        raise ValueError(f"{name} must be numbers [{frames}, P] for {frames} frames, got {given}.")


def _check_actions(name: str, entry: h5py.Dataset, frames: int, *, closed: bool) -> None:
    counts = (frames,) if closed else (frames - 1, frames)
    if entry.dtype.kind != "f" or entry.ndim != 2 or len(entry) not in counts or 0 in entry.shape[1:]:
        raise ValueError(
            f"{name} must be real numbers [{' or '.join(map(str, counts))}, A] for {frames} frames, got {entry.dtype} "
            f"{list(entry.shape)}; write discrete ones as one-hot rows."
        )


def _check_rewards(name: str, entry: h5py.Dataset, frames: int, *, closed: bool) -> None:
    counts = (frames,) if closed else (frames - 1, frames)
    if entry.dtype.kind not in "fiub" or len(entry) not in counts or entry.size != len(entry):
        raise ValueError(
            f"{name} must be one number a transition, [{' or '.join(map(str, counts))}] for {frames} frames, got "
            f"{entry.dtype} {list(entry.shape)}."
        )


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
