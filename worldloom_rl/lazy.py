"""Packages whose names are imported when they are first asked for (PEP 562), so that importing a package is cheap."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec


def lazy_names(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package; its submodules are imported when asked for, too.

    There is no `__all__`: a star import would import everything, and pdoc would take it for a list of the submodules.

    Args:
        names: the public names by the module in which they stand, relative to the package: ".config".
    """
    places = {name: module for module, found in names.items() for name in found}

    def __getattr__(name: str) -> object:
        if name in places:
            value: object = getattr(importlib.import_module(places[name], package), name)
            setattr(sys.modules[package], name, value)
            return value
        if name.isidentifier() and not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places})

    return __getattr__, __dir__
