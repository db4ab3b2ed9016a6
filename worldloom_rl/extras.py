"""Packages of the extras: asked for in one place, and missing in one form of words."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType


def require(module: str, *, extra: str, why: str) -> ModuleType:
    """The module, imported.

    Args:
        extra: of worldloom-rl, which installs it.
        why: who needs what, such as "HDF5 files need h5py".
    Raises ImportError that says why and how to install it, where it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(extra, why) from error


def require_installed(module: str, *, extra: str, why: str) -> None:
    """As `require`, for a package that is too slow to import before it is used."""
    if find_spec(module) is None:
        raise _missing(extra, why)


def _missing(extra: str, why: str) -> ImportError:
    return ImportError(f"{why}: pip install 'worldloom-rl[{extra}]'.")
