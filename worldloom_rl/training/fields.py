"""Values of a dataclass that come from a file: known names, right types, lists as tuples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import get_type_hints

from worldloom_rl.config import Dataclass, Json, described, did_you_mean, fits, taken


def typed(kind: type[Dataclass], values: Mapping[str, Json], where: str) -> dict[str, Json]:
    """The values as the fields of the dataclass `kind` take them.

    Args:
        where: they came from, for people; errors begin with it.
    Raises ValueError for a name that is no field, with the closest ones, and for a value of another type.
    """
    hints = get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise ValueError(f"{where}: {kind.__name__} has no field {name!r:.100}.{did_you_mean(name, known)}")
    read = {name: taken(known[name], value) for name, value in values.items()}
    for name, value in read.items():
        if not fits(value, hints[name]):
            raise ValueError(f"{where}: {name} takes {described(hints[name])}, got {values[name]!r:.200}.")
    return read
