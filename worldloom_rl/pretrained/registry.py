"""Names of families and presets: "tdmpc2:5m" is the preset "5m" of the family "tdmpc2".

A package offers a family by an entry point of the group `worldloom_rl.models` that names the module whose import
registers it; the library's own families are found in the same way.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, TypeVar

from worldloom_rl.config import WorldModelConfig, did_you_mean

ENTRY_POINT_GROUP = "worldloom_rl.models"

ModelClass = TypeVar("ModelClass", bound=type)


@dataclass(frozen=True)
class Family:
    """A registered family: the model class, its configuration class and its named configurations."""

    name: str
    model_class: Any
    config_class: type[WorldModelConfig]
    presets: Mapping[str, WorldModelConfig]


_families: dict[str, Family] = {}


def register_world_model(
    name: str, config_class: type[WorldModelConfig], presets: Mapping[str, WorldModelConfig]
) -> Callable[[ModelClass], ModelClass]:
    """Class decorator: makes a WorldModel known under `name`, with presets as "name:preset".

    Every family has a preset "tiny". Raises ValueError if the name is taken by another class.
    """
    if "tiny" not in presets:
        raise ValueError(f"The family {name!r} lacks the preset 'tiny', which tests and quick starts use.")

    def register(model_class: ModelClass) -> ModelClass:
        taken = _families.get(name)
        if taken is not None and taken.model_class.__qualname__ != model_class.__qualname__:
            raise ValueError(f"The family name {name!r} is taken by {taken.model_class}.")
        model_class.model_type = name  # type: ignore[attr-defined]
        _families[name] = Family(name, model_class, config_class, dict(presets))
        return model_class

    return register


def _installed() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def find_family(name: str) -> Family:
    """The family of that name, importing its module if need be. Raises ValueError with the closest names."""
    if name not in _families:
        installed = _installed()
        if name in installed:
            installed[name].load()
    if name not in _families:
        raise ValueError(f"No world model family is named {name!r}.{did_you_mean(name, {*_families, *_installed()})}")
    return _families[name]


def find_preset(name: str) -> tuple[Family, WorldModelConfig]:
    """The family and configuration that "family:preset" names. Raises ValueError with the closest names."""
    family_name, colon, preset = name.partition(":")
    if not colon:
        raise ValueError(f"A preset is named 'family:preset', got {name!r}.{did_you_mean(name, list_world_models())}")
    family = find_family(family_name)
    if preset not in family.presets:
        known = [f"{family_name}:{known}" for known in family.presets]
        raise ValueError(f"The family {family_name!r} has no preset {preset!r}.{did_you_mean(name, known)}")
    return family, family.presets[preset]


def list_world_models(pattern: str = "*") -> list[str]:
    """All "family:preset" names that match a shell pattern, such as "tdmpc2:*"."""
    names = [
        f"{family}:{preset}" for family in sorted({*_families, *_installed()}) for preset in find_family(family).presets
    ]
    return fnmatch.filter(names, pattern)
