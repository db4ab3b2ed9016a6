"""Observations held to their space where they enter, and brought into the one form that models read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces

from worldloom_rl.specs.images import image_layout
from worldloom_rl.specs.spaces import Space, observation_text, one_hot_width, read_parts, shown

Observed: TypeAlias = "np.ndarray | dict[str, Observed]"  # fresh arrays, in dictionaries where there are parts
Reader = Callable[[object], Observed]
_MEND = "mend one of them."


def observation_reader(name: str, space: Space) -> Reader:
    """What reads the observations of a space that `observation_space_of` takes: fresh arrays of the space it made.

    Simulators reuse their arrays, and TorchRL does not copy. An observation that is not one of its space is refused by
    a ValueError with the environment, the key, what is promised and what was given: another shape or type, a part
    missing or added, no bytes where those are promised, no member of the choices. Taken are other types of numbers,
    lists, one number in any shape, and [height, width] for [height, width, 1] or [1, height, width]. Bounds of real
    numbers are not held: models read them as unbounded. Texts beside other parts are left out.
    """
    return _reader(name, space, ())


def convert_episode(name: str, space: Space, observation: object) -> Observed:
    """Observations [T, …] of a whole episode, read one by one as `observation_reader` does."""
    read = observation_reader(name, space)
    return _joined([read(row) for row in _rows(observation)])


def _rows(observation: Any) -> list[Any]:
    """The T observations of arrays [T, …], in dictionaries where there are parts."""
    if not isinstance(observation, Mapping):
        return list(observation)
    parts = {part: _rows(leaf) for part, leaf in observation.items()}
    return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]


def _joined(rows: Sequence[Observed]) -> Observed:
    if not isinstance(rows[0], dict):
        return np.stack(rows)  # type: ignore[arg-type]  # alike: of one reader
    return {part: _joined([row[part] for row in rows]) for part in rows[0]}


def _reader(name: str, space: Space, key: tuple[str, ...]) -> Reader:
    where = observation_text(name, key) if key else f"{name}: the observation"
    if isinstance(space, spaces.Dict):
        readers = {part: _reader(name, leaf, (*key, part)) for part, leaf in read_parts(space).items()}
        return _dictionary_reader(where, space, readers)
    if isinstance(space, spaces.Box):
        return _box_reader(where, space)
    assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary), space
    return _flag_reader(where, space) if isinstance(space, spaces.MultiBinary) else _choice_reader(where, space)


def _dictionary_reader(where: str, space: spaces.Dict, readers: Mapping[str, Reader]) -> Reader:
    def read(observation: object) -> Observed:
        if not isinstance(observation, Mapping):
            raise ValueError(f"{where} is a {type(observation).__name__}, its space a dictionary: {shown(space)}.")
        if observation.keys() != space.keys():
            missing = sorted(space.keys() - observation.keys())
            added = sorted(map(str, observation.keys() - space.keys()))
            said = f"lacks {missing}, which its space names" if missing else f"has {added}, unknown to its space"
            raise ValueError(f"{where} {said}; the space has {sorted(space)}: {_MEND}")
        return {part: read(observation[part]) for part, read in readers.items()}

    return read


def _box_reader(where: str, space: spaces.Box) -> Reader:
    layout = image_layout(where, space)
    shape, levels = space.shape, layout is not None and layout.bytes
    dtype = np.uint8 if levels else np.float32

    def read(observation: object) -> np.ndarray:
        array = _numbers(where, space, observation)
        if array.shape != shape:
            array = _reshaped(where, space, array)
        if levels and array.dtype != np.uint8:
            _check_levels(where, space, array)
        if layout is not None:
            array = layout.arrange(array)
        if array.dtype == np.float64:
            array = _narrowed(where, array)
        fresh = np.array(array, dtype=dtype, order="C")
        return fresh if fresh.ndim else fresh.reshape(1)

    return read


def _choice_reader(where: str, space: spaces.Discrete | spaces.MultiDiscrete) -> Reader:
    """One-hots side by side."""
    counts = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec).ravel()
    low = np.atleast_1d(space.start).ravel()
    places = np.cumsum(counts) - counts - low
    width, high = one_hot_width(space), low + counts

    def read(observation: object) -> np.ndarray:
        array = _numbers(where, space, observation)
        if array.shape != space.shape:
            array = _reshaped(where, space, array)
        chosen = array.ravel()
        if chosen.dtype.kind == "f" or bool((chosen < low).any() or (chosen >= high).any()):
            raise ValueError(f"{where} is {observation!r:.80}, none of {shown(space)}: {_MEND}")
        one_hot = np.zeros(width, np.float32)
        one_hot[places + chosen.astype(np.int64)] = 1.0
        return one_hot

    return read


def _flag_reader(where: str, space: spaces.MultiBinary) -> Reader:
    def read(observation: object) -> np.ndarray:
        array = _numbers(where, space, observation)
        if array.shape != space.shape:
            array = _reshaped(where, space, array)
        if not bool(((array == 0) | (array == 1)).all()):
            raise ValueError(f"{where} is {observation!r:.80}, none of {shown(space)}: {_MEND}")
        return np.array(array, np.float32).ravel()

    return read


def _numbers(where: str, space: Space, observation: object) -> np.ndarray:
    """The observation as an array of numbers of any shape."""
    if type(observation) is np.ndarray and observation.dtype.kind in "fui":
        return observation
    try:
        array = np.asarray(observation)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of unequal length, tensors that need a gradient
        raise ValueError(f"{where} is {observation!r:.80}, no array ({error}); its space is {shown(space)}.") from error
    if observation is None or array.dtype.kind not in "biuf":
        raise ValueError(f"{where} is {observation!r:.80}, its space {shown(space)}: {_MEND}")
    return array


def _reshaped(where: str, space: Space, array: np.ndarray) -> np.ndarray:
    """The array in the shape of its space where that can mean one thing only."""
    shape: tuple[int, ...] = space.shape or ()
    one_number = array.size == 1 and np.prod(shape) == 1
    gray = array.ndim == 2 and (shape == (*array.shape, 1) or shape == (1, *array.shape))
    if not (one_number or gray):
        raise ValueError(f"{where} has shape {array.shape}, its space says {shape}: {_MEND}")
    return array.reshape(shape)


def _check_levels(where: str, space: Space, image: np.ndarray) -> None:
    """Raise ValueError unless these become bytes without loss of what they mean."""
    if image.dtype.kind not in "iu" or bool((image < 0).any() or (image > 255).any()):
        raise ValueError(
            f"{where} is {image.dtype} from {image.min()} to {image.max()}, its space says {space.dtype}, 0 to 255: "
            "give bytes, or a space of real numbers."
        )


def _narrowed(where: str, array: np.ndarray) -> np.ndarray:
    """The float64 numbers as float32."""
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if not np.isfinite(narrow).all() and not np.array_equal(np.isfinite(narrow), np.isfinite(array)):
        raise ValueError(f"{where} holds {np.abs(array[np.isfinite(array)]).max()}, too large for float32: scale it.")
    return narrow
