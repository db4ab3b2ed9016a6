"""Configurations as frozen dataclasses, and as JSON."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Json = Any  # what the json module reads and writes


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A sentence "Did you mean …?" with the closest known names, or the list of all when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else f" Known are {names}."


ConfigType = TypeVar("ConfigType", bound="WorldModelConfig")
_BEFORE = "before"


def added_field(default: Any, before: Any) -> Any:
    """A field of a configuration that files of older versions lack: they mean `before`."""
    return dataclasses.field(default=default, metadata={_BEFORE: before})


@dataclass(frozen=True)
class WorldModelConfig:
    """Base of the families' configurations: plain values that survive JSON."""

    def to_json(self) -> dict[str, Json]:
        """Field names and values; tuples become lists."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_json(cls: type[ConfigType], values: Mapping[str, Json]) -> ConfigType:
        """The configuration with these values. Raises ValueError on an unknown or a missing field, and on NaN."""
        if not isinstance(values, Mapping):
            raise ValueError(f"The config must be the fields of {cls.__name__} by name, got {values!r}.")
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise ValueError(f"{cls.__name__} has no field {name!r}.{did_you_mean(name, known)}")
        older = {field.name: field.metadata[_BEFORE] for field in dataclasses.fields(cls) if _BEFORE in field.metadata}
        values = {**older, **values}
        missing = sorted(known - set(values))
        if missing:
            raise ValueError(f"The configuration lacks the fields {missing} of {cls.__name__}; is the file complete?")
        for name, value in values.items():
            if any(isinstance(number, float) and not math.isfinite(number) for number in flat_json([value])):
                raise ValueError(f"{cls.__name__} takes finite numbers, but {name} is {value!r}.")
        return cls(**{name: _tupled(value) for name, value in values.items()})


def _plain(value: Json) -> Json:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _tupled(value: Json) -> Json:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low ≤ value ≤ high; for `__post_init__` of configurations.

    Bounds that are ints ask for a whole number, bounds that are floats for any.
    """
    whole = isinstance(low, int) and isinstance(high, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
        raise ValueError(f"{name} must be a {'whole ' * whole}number in [{low}, {high}], got {value!r}.")


def flat_json(values: list[Json]) -> Iterator[Json]:
    for value in values:
        yield from flat_json(value) if isinstance(value, list) else (value,)
