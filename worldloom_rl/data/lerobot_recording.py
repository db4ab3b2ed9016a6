"""Datasets of LeRobot, versions 3 and 2: tables in parquet files, cameras as videos or as images in the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.config import Json
from worldloom_rl.data.json_file import parsed, read_json, read_text
from worldloom_rl.data.lerobot_cameras import Camera, Stills, Videos
from worldloom_rl.data.parquet import numbers_of, read_table
from worldloom_rl.data.recording import Excerpt, Recording, seen_bounds
from worldloom_rl.keys import ACTION, RESERVED

if TYPE_CHECKING:
    import pyarrow

_OBSERVATION = "observation."
_KEYS = {"state": "observation", "image": "pixels"}  # of what follows "observation."
_REWARD, _DONE = "next.reward", "next.done"
_EPISODE, _FRAME, _TASK = "episode_index", "frame_index", "task_index"
_VIDEO, _IMAGE = "video", "image"  # dtypes of cameras


class LeRobotRecording(Recording):
    """The episodes of a local LeRobot dataset: a directory with meta/info.json of version 3.x or 2.x, and data/.

    "observation.state" has the key "observation", "observation.image" is "pixels", "observation.images.NAME" is NAME,
    "observation.OTHER" is OTHER. Actions are real numbers, whose bounds are the lowest and the highest of each column.
    Where there is a "next.reward", the last frame of each episode stands twice, so that the reward of its action
    counts, as in LeRobot's own buffer; "next.done" says whether that is a terminal state. Where it stands before the
    last frame already, that frame is the terminal state and stands once; further before, nobody knows what the frames
    after it are, and the episode is refused. The tasks are those in words.

    Args:
        path: of the directory.
        image_size: rows and columns that images are brought to; by default they stay as they are.
    Raises ImportError without pyarrow, or without a decoder for videos; FileNotFoundError; ValueError naming the file.
    """

    def __init__(self, path: Path, image_size: int | None = None) -> None:
        info = _info(path)
        self._files = sorted((path / "data").glob("*/*.parquet"))
        if not self._files:
            raise FileNotFoundError(f"{path} holds no data/*/*.parquet: download the dataset's data too.")
        features: dict[str, Json] = info["features"]
        cameras = [name for name, feature in features.items() if feature.get("dtype") in (_VIDEO, _IMAGE)]
        observed = [name for name in features if name.startswith(_OBSERVATION) and name not in cameras]
        for needed in (ACTION, _EPISODE, _FRAME):
            if needed not in features:
                raise ValueError(f"{path / 'meta/info.json'} has no feature {needed!r}, only {sorted(features)}.")
        self._rewarded = _REWARD in features
        scalars = [name for name in (_REWARD, _DONE, _TASK, _EPISODE, _FRAME) if name in features]
        self._columns = _columns(self._files, [*observed, ACTION], scalars)
        starts, lengths = self._episodes(path, info)
        self._starts, self._lengths = starts, lengths
        self._twice = [self._rewarded and not closed for closed in self._closed(path)]
        self._vectors = {_key(path, name): name for name in observed}
        self._cameras: dict[str, Camera] = {}
        for name in cameras:
            kind = Videos if features[name]["dtype"] == _VIDEO else Stills
            self._cameras[_key(path, name)] = kind(path, name, self._numbers, image_size)
        observation_spec = Composite(
            {key: Unbounded(tuple(self._columns[name].shape[1:])) for key, name in self._vectors.items()}
        )
        for key, camera in self._cameras.items():
            observation_spec[key] = Bounded(0, 255, shape=camera.shape, dtype=torch.uint8)
        if observation_spec.is_empty():
            raise ValueError(f"{path} has no observation: no feature's name begins with {_OBSERVATION!r}.")
        tasks, names = self._tasks(path)
        super().__init__(
            f"lerobot:{path}",
            observation_spec,
            Composite({ACTION: seen_bounds(self._columns[ACTION])}),
            [length + twice for length, twice in zip(lengths, self._twice, strict=True)],
            tasks,
            names,
        )
        actions = torch.from_numpy(self._columns[ACTION])
        self.seen_actions = (actions.amin(0), actions.amax(0))

    def _episodes(self, path: Path, info: Mapping[str, Json]) -> tuple[list[int], list[int]]:
        """First row and rows of each episode that has a transition."""
        episode, frame = self._columns[_EPISODE], self._columns[_FRAME]
        begins = np.flatnonzero(np.append(True, episode[1:] != episode[:-1]))
        stops = np.append(begins[1:], len(episode))
        expected = np.concatenate([np.arange(stop - begin) for begin, stop in zip(begins, stops, strict=True)])
        if not np.array_equal(frame, expected):
            row = int((frame != expected).argmax())
            raise ValueError(
                f"{path}: episode {episode[row]} lacks frames, or has them out of order: frame {frame[row]} stands in "
                f"place {expected[row]}."
            )
        total = info.get("total_frames", len(episode))
        if total != len(episode):
            raise ValueError(f"{path}: info.json speaks of {total} frames, data/ holds {len(episode)}: copy all of it.")
        lengths = stops - begins
        kept = lengths > 1
        if not kept.any():
            raise ValueError(f"{path} holds no episode with a step.")
        self._numbers: list[int] = episode[begins][kept].tolist()
        return begins[kept].tolist(), lengths[kept].tolist()

    def _closed(self, path: Path) -> list[bool]:
        """Of each episode, whether its last frame is a terminal state that the frame before it led to."""
        if _DONE not in self._columns:
            return [False] * len(self._starts)
        done, closed = self._columns[_DONE] != 0, []
        for start, length, number in zip(self._starts, self._lengths, self._numbers, strict=True):
            if (early := done[start : start + length - 2]).any():
                raise ValueError(
                    f"{path}: episode {number} has {length} frames, and {_DONE!r} in frame {int(early.argmax())} "
                    "already: give what follows an episode_index of its own, leave it out, or clear the flag."
                )
            closed.append(bool(done[start + length - 2]))
        return closed

    def _tasks(self, path: Path) -> tuple[list[int] | None, list[str]]:
        """Each episode's place in the names of tasks, and the names."""
        if _TASK not in self._columns:
            return None, []
        words = _tasks_in_words(path)
        for start, length, number in zip(self._starts, self._lengths, self._numbers, strict=True):
            task = self._columns[_TASK][start : start + length]
            if (task != task[0]).any():
                raise ValueError(f"{path}: episode {number} is of several tasks: {sorted(set(task.tolist()))}.")
        given = [int(self._columns[_TASK][start]) for start in self._starts]
        unknown = sorted(set(given) - set(words))
        if unknown:
            raise ValueError(f"{path}: its episodes are of the tasks {unknown}, which meta/ does not name.")
        names = list(dict.fromkeys(words[number] for number in sorted(set(given))))
        return [names.index(words[number]) for number in given], names

    def read(self, episode: int, start: int, stop: int) -> Excerpt:
        first, shown = self._starts[episode], self._lengths[episode]
        frames = np.minimum(np.arange(start, stop + 1), shown - 1)  # of the one that stands twice
        observation: dict[NestedKey, Tensor] = {
            key: torch.from_numpy(self._columns[name][first + frames]) for key, name in self._vectors.items()
        }
        for key, camera in self._cameras.items():
            observation[key] = torch.from_numpy(camera.frames(episode, first, frames))
        rows = slice(first + start, first + stop)
        reward = torch.from_numpy(self._columns[_REWARD][rows].astype(np.float32)) if self._rewarded else None
        ended = bool(self._columns[_DONE][rows][-1]) if _DONE in self._columns else False
        return Excerpt(observation, {ACTION: torch.from_numpy(self._columns[ACTION][rows])}, reward, ended)

    def files(self) -> Sequence[Path]:
        return self._files


def _info(path: Path) -> dict[str, Json]:
    file = path / "meta" / "info.json"
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}: name the directory of a LeRobot dataset, which holds meta/.")
    info = read_json(file)
    features = info.get("features") if isinstance(info, dict) else None
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise ValueError(f"{file} does not describe a LeRobot dataset: it has no object of features.")
    version = str(info.get("codebase_version"))
    if not version.startswith(("v3.", "v2.")):
        raise ValueError(f"{file} is of version {version}; versions 2.x and 3.x can be read.")
    return dict(info)


def _key(path: Path, feature: str) -> str:
    part = feature.removeprefix(_OBSERVATION).removeprefix("images.")
    key = _KEYS.get(part, part)
    if key in RESERVED:
        raise ValueError(f"{path}: the observation {feature!r} would have the key contract's name {key!r}; rename it.")
    return key


def _columns(files: Sequence[Path], vectors: Sequence[str], scalars: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of all files, one after the other: vectors [N, width] as float32, scalars [N]."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*vectors, *scalars)}
    for file in files:
        table = read_table(file, [*vectors, *scalars])
        for name in found:
            found[name].append(numbers_of(file, table, name, vector=name in vectors))
    for name, parts in found.items():
        for file, part in zip(files, parts, strict=True):
            if part.shape[1:] != parts[0].shape[1:]:
                widths = f"{part.shape[1]} numbers a row, but {parts[0].shape[1]} in {files[0]}"
                raise ValueError(f"{file}: {name!r} has {widths}.")
    for name in {_EPISODE, _FRAME, _TASK} & set(scalars):
        for file, part in zip(files, found[name], strict=True):
            if part.dtype.kind not in "iu":
                raise ValueError(f"{file}: {name!r} must be whole numbers, got {part.dtype}.")
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _tasks_in_words(path: Path) -> dict[int, str]:
    table, lines = path / "meta" / "tasks.parquet", path / "meta" / "tasks.jsonl"
    if table.is_file():
        named, file = list(_rows_of(table, read_table(table, None))), table
    elif lines.is_file():
        named, file = list(_lines_of(lines)), lines
    else:
        raise FileNotFoundError(f"{path} has neither meta/tasks.parquet nor meta/tasks.jsonl, which name its tasks.")
    words = dict(named)
    if differing := sorted({number for number, task in named if words[number] != task}):
        raise ValueError(f"{file} names the task {differing[0]} twice, in other words.")
    return words


def _lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Number and words of each task."""
    try:
        for line in read_text(file).splitlines():
            if line.strip():
                task = parsed(file, line)
                yield int(task["task_index"]), str(task["task"])
    except (LookupError, TypeError, OverflowError) as error:
        raise ValueError(f"{file} does not name tasks: {error!r}.") from error


def _rows_of(file: Path, table: pyarrow.Table) -> Iterator[tuple[int, str]]:
    """Number and words of each task; pandas keeps the words as the table's index."""
    words = next((name for name in ("task", "__index_level_0__") if name in table.column_names), None)
    if words is None or _TASK not in table.column_names:
        raise ValueError(f"{file} does not name tasks: it has the columns {table.column_names}.")
    yield from zip(table[_TASK].to_pylist(), map(str, table[words].to_pylist()), strict=True)
