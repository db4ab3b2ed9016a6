"""Frames of LeRobot's cameras: videos beside the tables, or compressed images in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import imageio.v3 as iio
import numpy as np
from PIL.Image import DecompressionBombError

from worldloom_rl.data.json_file import read_json
from worldloom_rl.data.parquet import numbers_of, read_table
from worldloom_rl.specs.spaces import resize_image

_PLUGINS = {"av": "pyav", "imageio_ffmpeg": "FFMPEG"}  # of imageio, by the package that it needs


class Camera(Protocol):
    """What a camera saw.

    Attributes:
        shape: [C, height, width] of a frame.
    """

    shape: tuple[int, int, int]

    def frames(self, episode: int, first: int, numbers: np.ndarray) -> np.ndarray:
        """uint8 [N, C, height, width] the frames with these numbers [N], which do not fall, of an episode.

        Args:
            first: the episode's first row in all tables.
        """
        ...


class Videos:
    """A camera whose episodes are in video files: each in its own (version 2), or several in one (version 3).

    Args:
        path: of the dataset.
        name: of the feature.
        episodes: their numbers in the dataset.
    Raises ImportError if nothing can decode videos.
    """

    def __init__(self, path: Path, name: str, episodes: Sequence[int], image_size: int | None) -> None:
        found = [plugin for package, plugin in _PLUGINS.items() if find_spec(package)]
        if not found:
            raise ImportError(
                f"{path}: the camera {name!r} is kept as videos, which imageio decodes with PyAV: pip install "
                "'worldloom-rl[lerobot]', or pip install av."
            )
        self._plugin, self._size = found[0], image_size
        self._files = _video_files(path, name, episodes)
        self._open: tuple[Path, int, Iterator[np.ndarray]] | None = None  # the frame that comes next
        self._last: np.ndarray | None = None  # the frame before that
        channels, height, width = self.frames(0, 0, np.zeros(1, dtype=np.int64))[0].shape
        self.shape = (channels, height, width)

    def frames(self, episode: int, first: int, numbers: np.ndarray) -> np.ndarray:
        file, offset = self._files[episode]
        return np.stack([_shown(self._frame(file, offset + int(number)), self._size) for number in numbers])

    def _frame(self, file: Path, number: int) -> np.ndarray:
        """[height, width, C] of a file; frames are read in their order, so that a step back begins anew."""
        if self._open is None or self._open[0] != file or number < self._open[1] - 1:
            if not file.is_file():
                raise FileNotFoundError(f"{file} is missing: download the dataset's videos too.")
            self._open, self._last = (file, 0, iio.imiter(file, plugin=self._plugin)), None
        try:
            while self._last is None or self._open[1] <= number:
                self._last = next(self._open[2])
                self._open = (file, self._open[1] + 1, self._open[2])
        except StopIteration as error:
            raise ValueError(f"{file} ends before frame {number}.") from error
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{file} cannot be decoded: {error}") from error
        return self._last


class Stills:
    """A camera whose frames are compressed images in the tables."""

    def __init__(self, path: Path, name: str, episodes: Sequence[int], image_size: int | None) -> None:
        self._name, self._size = name, image_size
        self._files = sorted((path / "data").glob("*/*.parquet"))
        self._counts = [read_table(file, ["frame_index"]).num_rows for file in self._files]
        self._held: tuple[int, list[object]] | None = None  # the file that was read last
        channels, height, width = self.frames(0, 0, np.zeros(1, dtype=np.int64))[0].shape
        self.shape = (channels, height, width)

    def frames(self, episode: int, first: int, numbers: np.ndarray) -> np.ndarray:
        found = [self._frame(first + int(number)) for number in numbers]
        for number, frame in zip(numbers, found, strict=True):
            if frame.shape != found[0].shape:
                sizes = f"{list(frame.shape)} in row {first + int(number)}, but {list(found[0].shape)} before"
                raise ValueError(f"{self._files[0].parents[1]}: {self._name!r} has images of {sizes}.")
        return np.stack(found)

    def _frame(self, row: int) -> np.ndarray:
        number = 0
        while row >= self._counts[number]:
            row -= self._counts[number]
            number += 1
        file = self._files[number]
        if self._held is None or self._held[0] != number:
            column = read_table(file, [self._name])[self._name].to_pylist()
            images: list[object] = [image.get("bytes") if isinstance(image, dict) else image for image in column]
            self._held = (number, images)
        content = self._held[1][row]
        try:
            if not isinstance(content, bytes):  # a text would be opened as a path or an address
                raise TypeError(f"it is {type(content).__name__}, not the bytes of a file")
            return _shown(iio.imread(content, plugin="pillow"), self._size)
        except (OSError, ValueError, TypeError, SyntaxError, DecompressionBombError) as error:
            raise ValueError(f"{file}: row {row} of {self._name!r} is no image: {error}") from error


def _shown(image: np.ndarray, size: int | None) -> np.ndarray:
    """uint8 [C, height, width] of a decoded [height, width(, C)]."""
    if image.dtype != np.uint8:
        raise ValueError(f"its frames are {image.dtype}, expected bytes")
    frame = np.ascontiguousarray(np.moveaxis(image if image.ndim == 3 else image[..., None], -1, 0))
    return frame if size is None else resize_image(frame, size)


def _video_files(path: Path, name: str, episodes: Sequence[int]) -> list[tuple[Path, int]]:
    """File of each episode, and the number of its first frame there."""
    tables = sorted((path / "meta" / "episodes").glob("*/*.parquet"))
    if not tables:
        found = {int(file.stem.rpartition("_")[2]): file for file in (path / "videos").glob(f"*/{name}/episode_*.mp4")}
        missing = [episode for episode in episodes if episode not in found]
        if missing:
            raise FileNotFoundError(f"{path} lacks the videos of {name!r} of the episodes {missing[:5]}.")
        return [(found[episode], 0) for episode in episodes]
    rate = read_json(path / "meta" / "info.json").get("fps")
    if not isinstance(rate, int | float) or not 0 < rate < float("inf"):
        raise ValueError(f"{path / 'meta' / 'info.json'}: fps must be a number above 0, got {rate!r:.100}.")
    columns = [f"videos/{name}/{part}" for part in ("chunk_index", "file_index", "from_timestamp")]
    places: dict[int, tuple[Path, int]] = {}
    for table in tables:
        read = read_table(table, ["episode_index", *columns])
        values = [numbers_of(table, read, column, vector=False) for column in ("episode_index", *columns)]
        if any(not (np.isfinite(value) & (value >= 0)).all() for value in values):
            raise ValueError(
                f"{table} does not say where the videos of {name!r} are: a number in it is below 0 or none."
            )
        for episode, chunk, file, begin in zip(*(value.tolist() for value in values), strict=True):
            video = path / "videos" / name / f"chunk-{int(chunk):03d}" / f"file-{int(file):03d}.mp4"
            places[int(episode)] = (video, round(float(begin) * rate))
    missing = [episode for episode in episodes if episode not in places]
    if missing:
        raise ValueError(f"{path / 'meta/episodes'} does not say where the videos of the episodes {missing[:5]} are.")
    return [places[episode] for episode in episodes]
