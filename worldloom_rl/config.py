"""Configurations as frozen dataclasses whose numbers have ranges, by size, as text and as JSON."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

Json = Any  # what the json module reads and writes

T = TypeVar("T")
ConfigType = TypeVar("ConfigType", bound="WorldModelConfig")


class Dataclass(Protocol):
    """An object of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A sentence "Did you mean …?" with the closest known names, or the list of all when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else f" Known are {names}."


# ---------------------------------------------------------------------- fields

_BEFORE = "before"
_FOUND = "found"
_ONCE_ONE = "once one"
_LIMITS = "limits"


@dataclass(frozen=True)
class Limits:
    """The least and the largest value of a number, and how many numbers a tuple of them may have."""

    low: float
    high: float
    lengths: tuple[int, int] | None = None


def ranged(default: T, low: float, high: float, *, lengths: tuple[int, int] | None = None) -> T:
    """A field of a configuration whose number, or each of whose numbers, is in [low, high].

    Bounds that are ints ask for whole numbers.

    Args:
        lengths: the fewest and the most numbers of a tuple; by default any.
    """
    return dataclasses.field(default=default, metadata={_LIMITS: Limits(low, high, lengths)})


def added_field(default: T, before: T, limits: Limits | None = None) -> T:
    """A field of a configuration that files of older versions lack: they mean `before`."""
    return dataclasses.field(default=default, metadata={_BEFORE: before, _LIMITS: limits})


def texts_field() -> tuple[str, ...]:
    """A field of any number of texts that took one in older versions: a text is taken for that one, "" for none."""
    return dataclasses.field(default=(), metadata={_ONCE_ONE: True})


def found_field() -> bool | None:
    """A field of a run's configuration that is None until the run finds out whether it is so; then it says that."""
    return dataclasses.field(default=None, metadata={_FOUND: True})


def found_fields(kind: type[Dataclass]) -> frozenset[str]:
    """The names of the fields that a run finds out, unless it is told."""
    return frozenset(field.name for field in dataclasses.fields(kind) if _FOUND in field.metadata)


def older_values(kind: type[Dataclass]) -> dict[str, Json]:
    """What the fields that files of older versions lack mean there, by name."""
    return {field.name: field.metadata[_BEFORE] for field in dataclasses.fields(kind) if _BEFORE in field.metadata}


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low ≤ value ≤ high; for `__post_init__` of configurations.

    Bounds that are ints ask for a whole number, bounds that are floats for any.
    """
    whole = isinstance(low, int) and isinstance(high, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
        raise ValueError(f"{name} must be a {'whole ' * whole}number in [{low}, {high}], got {value!r}.")


# ---------------------------------------------------------------------- configurations

_sizes: dict[type[WorldModelConfig], dict[str, WorldModelConfig]] = {}


def name_sizes(config_class: type[WorldModelConfig], sizes: Mapping[str, WorldModelConfig]) -> None:
    """Makes these configurations known to `config_class.from_size`; registering a family does it."""
    _sizes.setdefault(config_class, {}).update(sizes)


@dataclass(frozen=True)
class WorldModelConfig:
    """Base of the families' configurations: plain values that survive JSON.

    Fields are numbers, texts, truth values, and tuples of them; a list that is given becomes a tuple. A value of
    another type than its field's, or outside its range (`ranged`), is refused by name. Where numbers have to agree with
    each other, a family says so in `__post_init__`, after `super().__post_init__()`.
    """

    def __init_subclass__(cls) -> None:
        if "__repr__" not in cls.__dict__:  # or `@dataclass` would write one that shows every field
            cls.__repr__ = WorldModelConfig.__repr__  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def from_size(cls: type[ConfigType], size: str, **changes: Json) -> ConfigType:
        """The configuration of that size, a preset of its family, with these fields changed.

        Raises ValueError for a size or a field that there is not, with the closest names, and for a bad value.
        """
        sizes = _sizes.get(cls, {})
        preset = sizes.get(size)
        if not isinstance(preset, cls):
            raise ValueError(f"{cls.__name__} has no size {size!r}.{did_you_mean(size, sizes)}")
        cls._require_fields(changes)
        return dataclasses.replace(preset, **changes)

    def __repr__(self) -> str:
        """Python for it: what differs from the defaults or the nearest size, `Config.from_size('5m', horizon=5)`."""
        name = type(self).__name__
        others: list[object] = [field.default for field in dataclasses.fields(self)]
        texts = [f"{name}({', '.join(self._differences(others))})"]
        for size, preset in _sizes.get(type(self), {}).items():
            others = [getattr(preset, field.name) for field in dataclasses.fields(self)]
            texts.append(f"{name}.from_size({', '.join([repr(size), *self._differences(others)])})")
        return min(texts, key=len)

    def _differences(self, others: Iterable[object]) -> list[str]:
        """ "name=value" of the fields that are not as those others, which stand in the fields' order."""
        pairs = zip(dataclasses.fields(self), others, strict=True)
        values = {field.name: (getattr(self, field.name), other) for field, other in pairs}
        return [f"{name}={value!r}" for name, (value, other) in values.items() if value != other]

    def to_json(self) -> dict[str, Json]:
        """Field names and values; tuples become lists."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_json(cls: type[ConfigType], values: Mapping[str, Json]) -> ConfigType:
        """The configuration with these values. Raises ValueError on an unknown or a missing field, and on NaN."""
        if not isinstance(values, Mapping):
            raise ValueError(f"The config must be the fields of {cls.__name__} by name, got {values!r}.")
        cls._require_fields(values)
        values = {**older_values(cls), **values}
        missing = sorted({field.name for field in dataclasses.fields(cls)} - set(values))
        if missing:
            raise ValueError(f"The configuration lacks the fields {missing} of {cls.__name__}; is the file complete?")
        for name, value in values.items():
            if any(isinstance(number, float) and not math.isfinite(number) for number in flat_json([value])):
                raise ValueError(f"{cls.__name__} takes finite numbers, but {name} is {value!r}.")
        return cls(**{name: tupled(value) for name, value in values.items()})

    @classmethod
    def _require_fields(cls, names: Iterable[str]) -> None:
        known = {field.name for field in dataclasses.fields(cls)}
        for name in names:
            if name not in known:
                raise ValueError(f"{cls.__name__} has no field {name!r:.100}.{did_you_mean(name, known)}")


def _plain(value: Json) -> Json:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def tupled(value: Json) -> Json:
    """The value with its lists, which JSON has, as tuples, which fields have."""
    return tuple(tupled(item) for item in value) if isinstance(value, list | tuple) else value


def taken(field: dataclasses.Field[object], value: Json) -> Json:
    """The value as a configuration's field takes it."""
    if _ONCE_ONE in field.metadata and isinstance(value, str):
        return (value,) if value else ()
    return tupled(value)


def flat_json(values: list[Json]) -> Iterator[Json]:
    for value in values:
        yield from flat_json(value) if isinstance(value, list) else (value,)


# ---------------------------------------------------------------------- what a field takes


def limits_of(kind: type[Dataclass]) -> dict[str, Limits]:
    """The ranges of its fields that have one, by name."""
    found = {field.name: field.metadata.get(_LIMITS) for field in dataclasses.fields(kind)}
    return {name: limits for name, limits in found.items() if limits is not None}


def check_fields(config: Dataclass) -> None:
    """Raise ValueError by name unless each value is of its field's type and in its range. Lists become tuples."""
    hints = _type_hints(type(config))
    for field in dataclasses.fields(config):
        given = getattr(config, field.name)
        value = taken(field, given)
        if value is not given:
            object.__setattr__(config, field.name, value)
        check_value(field.name, value, hints.get(field.name, object), field.metadata.get(_LIMITS))


@cache
def _type_hints(config_class: type[Dataclass]) -> dict[str, object]:
    try:
        return get_type_hints(config_class)
    except NameError:  # a type that exists for type checkers only, or inside a function
        return {}


def check_value(name: str, value: object, hint: object, limits: Limits | None) -> None:
    """Raise ValueError unless the value is of that type and, if it is a number or numbers, in that range."""
    numbers = value if isinstance(value, tuple) else (value,)
    least, most = limits.lengths if limits and limits.lengths else (0, math.inf)
    # The length first: a file may hold any number of numbers.
    if (isinstance(value, tuple) and not least <= len(value) <= most) or not fits(value, hint):
        raise ValueError(f"{name} must be {described(hint, limits)}, got {value!r:.200}.")
    if limits is not None and value is not None:
        for number in numbers:
            check_range(name, number, limits.low, limits.high)


def fits(value: object, hint: object) -> bool:
    """Whether a value, its lists tuples, is of a type; numbers are finite. Types of no plain value take anything."""
    parts = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if get_origin(hint) is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        items = parts[:1] * len(value) if parts[-1:] == (...,) else parts
        return len(items) == len(value) and all(map(fits, value, items))
    if hint in (int, float):
        number = isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
        return number and (isinstance(value, int) or math.isfinite(value))  # type: ignore[arg-type]
    return isinstance(value, hint) if hint in (bool, str, tuple, type(None)) and isinstance(hint, type) else True


_NAMES: dict[object, tuple[str, str]] = {
    bool: ("true or false", "truth values"),
    str: ("a text", "texts"),
    type(None): ("None", "None"),
}


def described(hint: object, limits: Limits | None = None, plural: bool = False) -> str:
    """What a field of that type takes, in words."""
    parts = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(described(part, limits) for part in parts)
    if get_origin(hint) is Literal:
        return f"one of {list(parts)}"
    if get_origin(hint) is tuple:
        if parts[-1:] != (...,):
            return f"a tuple ({', '.join(described(part, limits) for part in parts)})"
        count = "{} to {} ".format(*limits.lengths) if limits and limits.lengths else ""
        return f"a tuple of {count}{described(parts[0], limits, plural=True)}"
    if hint in (int, float):
        article, end = ("", "s") if plural else ("a ", "")
        bounds = f" in [{limits.low}, {limits.high}]" if limits else ""
        return f"{article}{'whole ' * (hint is int)}number{end}{bounds}"
    return _NAMES[hint][plural] if hint in _NAMES else getattr(hint, "__name__", str(hint))
