"""Values of a dataclass that come from a person or a file: known names, right types, lists as tuples."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Union, get_args, get_origin, get_type_hints

from worldloom_rl.config import Json, did_you_mean

_WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "nothing",
}


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]


def typed(kind: type[_Dataclass], values: Mapping[str, Json], where: str) -> dict[str, Json]:
    """The values as the fields of the dataclass `kind` take them.

    Args:
        where: they came from, for people; errors begin with it.
    Raises ValueError for a name that is no field, with the closest ones, and for a value of another type.
    """
    hints = get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise ValueError(f"{where}: {kind.__name__} has no field {name!r}.{did_you_mean(name, known)}")
    taken = {name: _tupled(value) for name, value in values.items()}
    for name, value in taken.items():
        if not fits(value, hints[name]):
            raise ValueError(f"{where}: {name} takes {_words(hints[name])}, got {values[name]!r}.")
    return taken


def _tupled(value: Json) -> Json:
    return tuple(_tupled(item) for item in value) if isinstance(value, list | tuple) else value


def fits(value: object, hint: Any) -> bool:
    """Whether a value, its lists tuples, is of the type that a field is annotated with; numbers must be finite."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, inner[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint is Any or isinstance(value, hint)


def _words(hint: object) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(each) for each in inner)
    if origin is tuple:
        return f"a list of {_words(inner[0]).removeprefix('a ')}s"
    return _WORDS.get(hint, str(hint))
